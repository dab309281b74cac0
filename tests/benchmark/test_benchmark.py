"""The latency benchmark: its arithmetic, its tables, and one short measurement in real processes.

No test looks at a time: a busy machine must not fail them.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import paddle
import pytest

from experiments.latency import paper
from ppcls_lite.benchmark import cli as latency
from ppcls_lite.benchmark import machine as latency_machine
from ppcls_lite.benchmark import models as latency_models
from ppcls_lite.benchmark import profile as latency_profile
from ppcls_lite.benchmark import report as latency_report
from ppcls_lite.benchmark import result as latency_result
from ppcls_lite.benchmark import turns as latency_turns
from ppcls_lite.benchmark.machine import Machine
from ppcls_lite.benchmark.result import PRIMITIVES, Result, Setting
from ppcls_lite.benchmark.worker import END, MARK
from ppcls_lite.cli import main
from ppcls_lite.errors import UserError
from ppcls_lite.models.create import create_model

PADDLE = Setting("paddle", "fp32", 1)

# As oneDNN 3.6.2 (Paddle 3.3.1) and the older 2.x write them; shortened.
VERBOSE_3 = (
    "onednn_verbose,v1,primitive,exec,cpu,convolution,brg_conv_fwd:avx512_core,forward_inference,"
    "src:f32:a:blocked:acdb::f0 wei:f32:ap:blocked:Acdb16a::f0,attr-post-ops:eltwise_hardswish:"
    "0.166667:0.5,alg:convolution_direct,mb1_ic3oc8_ih224oh112kh3sh2dh0ph1,0.134033"
)
VERBOSE_2 = (
    "onednn_verbose,exec,cpu,reorder,jit:uni,undef,src_f32::blocked:abcd:f0 dst_f32::blocked:acdb:"
    "f0,,,1x3x224x224,0.0471191"
)
OTHER_LINES = (
    "onednn_verbose,v1,info,cpu,runtime:OpenMP,nthr:1",
    "onednn_verbose,v1,primitive,info,template:operation,engine,primitive,problem_desc,exec_time",
    "onednn_verbose,v1,primitive,create:cache_miss,cpu,convolution,jit:avx2,undef,,,alg:x,mb1,0.2",
    "a line of something else, 0.5",
    "",
)


def result(model: str, *rounds: list[float], setting: Setting = PADDLE, batch: int = 1) -> Result:
    return Result(model, setting, batch, [list(turn) for turn in rounds], cpu=[1.0] * len(rounds))


def test_quantiles_are_numpys() -> None:
    values = [5.0, 1.0, 4.0, 2.5]
    for share in (0.0, 0.1, 0.5, 0.99, 1.0):
        assert latency_result.quantile(values, share) == pytest.approx(np.quantile(values, share))


def test_a_result_states_spread_and_drift() -> None:
    steady, drifting = result("a", [1, 1, 1], [1, 1, 1]), result("a", [1, 1, 1], [2, 2, 2])
    assert (steady.spread, steady.drift, steady.disturbed) == (0, 0, False)
    assert drifting.drift == pytest.approx(1 / 1.5)
    assert result("a", [2.0], batch=8).as_dict()["images_per_s"] == 4000
    drifting.cpu = [1.0, 0.4]
    assert drifting.disturbed


def test_a_ratio_is_taken_round_by_round() -> None:
    one, other = result("a", [2, 2], [20, 20], [2, 2]), result("b", [1, 1], [10, 10], [1, 1])
    found = latency_result.ratio(one, other)
    assert (found.middle, found.low, found.high) == (2, 2, 2)
    assert not found.steady
    assert found.value == found.quiet == 2


def test_aims_name_what_was_measured() -> None:
    mine = {
        name: result("m", [ms], setting=Setting(*name.split(), 1))
        for name, ms in {
            **{"paddle fp32": 2.5, "openvino fp32": 1.2, "openvino bf16": 0.9},
            **{"auto any": 0.91, f"{PRIMITIVES} fp32": 1.0},
        }.items()
    }
    found = {aim.text: aim for aim in latency_result.aims(list(mine.values()))}
    assert found["Paddle / sum of oneDNN primitives"].met is False
    assert found["OpenVINO / sum of oneDNN primitives"].met is True
    assert found["OpenVINO bf16 / fp32"].met is None
    assert found["auto / best by hand (openvino bf16)"].met is True
    mine["auto any"].rounds = [[1.2]]
    worse = latency_result.aims(list(mine.values()))[-1]
    assert worse.met is False


def test_verbose_lines_of_both_versions() -> None:
    new, old = latency_profile.parse_line(VERBOSE_3), latency_profile.parse_line(VERBOSE_2)
    assert new == (
        *("convolution", "brg_conv_fwd:avx512_core", "mb1_ic3oc8_ih224oh112kh3sh2dh0ph1"),
        0.134033,
    )
    assert old == ("reorder", "jit:uni", "1x3x224x224", 0.0471191)
    assert [latency_profile.parse_line(line) for line in OTHER_LINES] == [None] * 5


def test_a_log_is_cut_into_runs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    run = [MARK, VERBOSE_3, OTHER_LINES[0], VERBOSE_2]
    warm = [VERBOSE_3] * 3  # not between a mark and an end
    log.write_text("\n".join([*warm, *run, *run, END, *warm, *run, END, *warm]))
    runs = latency_profile.read(log)
    assert [len(primitives) for primitives in runs] == [2, 2, 2]
    profile = latency_profile.Profile()
    profile.add(runs, [1.0, 1.0, 1.0])
    total = 0.134033 + 0.0471191
    assert profile.as_dict()["primitives_ms"] == pytest.approx(total)
    assert profile.rows()[0] == (
        *("convolution", 1, 0.134033),
        pytest.approx(0.134033 / total),
    )
    assert profile.top(1)[0][1] == "brg_conv_fwd:avx512_core"
    with pytest.raises(UserError, match="tell of 3 runs, 1 were made"):
        profile.add(runs, [1.0])
    log.write_text(f"{MARK}\n{MARK}\n{END}\n")
    with pytest.raises(UserError, match="no line for any primitive"):
        latency_profile.read(log)


def fake_system(root: Path) -> Path:
    files = {
        "proc/cpuinfo": "model name\t: Xeon of a test\nflags\t\t: fpu avx2 avx512f hypervisor\n",
        "proc/loadavg": "3.50 1.00 0.50 1/99 12345\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
    }
    for cpu in range(4):
        pair = "0,2" if cpu % 2 == 0 else "1,3"
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"] = pair + "\n"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_machine_is_read_and_judged(tmp_path: Path) -> None:
    machine = latency_machine.describe(fake_system(tmp_path), usable=(0, 1, 2, 3))
    assert machine.cpu == "Xeon of a test"
    assert machine.instructions == ("avx2", "avx512f")
    assert (machine.cores, machine.siblings) == ((0, 1), ((0, 2), (1, 3)))
    assert (machine.governor, machine.quota, machine.load) == ("powersave", 1.5, 3.5)
    assert "0+2, 1+3" in str(machine)
    found = " ".join(machine.warnings(threads=3))
    for word in ("load 3.50", "powersave", "3 threads on 2 physical cores", "1.5 processors"):
        assert word in found
    assert Machine("quiet", usable=(0,), cores=(0,), load=0.0).warnings(1) == []


def test_a_system_that_tells_nothing_is_described(tmp_path: Path) -> None:
    machine = latency_machine.describe(tmp_path, usable=(0, 1))
    assert (machine.governor, machine.quota, machine.load) == (None, None, None)
    assert machine.cores == (0, 1)
    assert machine.warnings(1) == []
    assert "governor not visible" in str(machine)


def test_the_budget_lists_the_best_accuracy_first() -> None:
    results = [
        result("PPLCNet_x0_25", [0.5]),
        result("PPLCNet_x1_0", [3.0]),
        result("PPLCNet_x1_0", [1.9], setting=Setting("openvino", "fp32", 1)),
        result("PPLCNetV2_small", [0.4]),  # no published accuracy
        result("PPLCNet_x2_5", [9.0]),
    ]
    fit, slow = latency_report.within_budget(results, 2.0)
    assert [r.model for r in fit] == ["PPLCNet_x1_0", "PPLCNet_x0_25", "PPLCNetV2_small"]
    assert fit[0].setting.engine == "openvino"
    assert [r.model for r in slow] == ["PPLCNet_x2_5"]


@pytest.mark.parametrize(
    ("words", "number"), [("2ms", 2), ("2.5 ms", 2.5), ("3", 3), (".5ms", 0.5)]
)
def test_a_budget_is_read(words: str, number: float) -> None:
    assert latency.milliseconds(words) == number


@pytest.mark.parametrize("words", ["2s", "", "ms", "-1ms", "0"])
def test_a_wrong_budget_is_refused(words: str) -> None:
    with pytest.raises(UserError, match="--latency-budget"):
        latency.milliseconds(words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "what is to be measured"),
        (["--arch", "PPLCNet_x9"], "'PPLCNet_x9' is not in the zoo"),
        (["--arch", "PPLCNet_x0_25", "--engines", "tensorrt"], "tensorrt is not installed or"),
        (["--arch", "PPLCNet_x0_25", "--threads", "0"], "--threads: expected whole numbers"),
        (["--arch", "PPLCNet_x0_25", "--cores", "9999"], "--cores: 9999 is not usable here"),
        (["--model", "nowhere", "--zoo"], "--model is measured alone"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_told(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", *options]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["PPLCNet_x0_25", "MobileNetV3_small_x0_35", "ShuffleNetV2_x0_33"])
def test_random_weights_keep_activations_of_order_one(name: str) -> None:
    paddle.seed(0)
    network = latency_models.steady(create_model(name, class_num=10), (128, 128))
    features: list[float] = []
    for layer in network.sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D):
            layer.register_forward_post_hook(lambda _, __, out: features.append(float(out.std())))
            assert layer._momentum > 0.5
    with paddle.no_grad():
        outputs = network(paddle.randn([2, 3, 128, 128]))
    assert not network.training
    assert np.isfinite(outputs.numpy()).all()
    assert min(features) > 0.05
    assert max(features) < 20


def test_a_process_that_dies_is_reported(tmp_path: Path) -> None:
    with latency_turns.Process(PADDLE, [], tmp_path / "log") as process:
        process._process.send_signal(signal.SIGINT)  # a terminal sends Ctrl-C to it, too
        with pytest.raises(UserError, match="no such folder"):
            process.ask(do="load", model="m", folder=str(tmp_path / "none"), shapes=[[1, 3, 8, 8]])
        with pytest.raises(UserError, match=r"has ended; its last words:[\s\S]*KeyError"):
            process.ask(do="nothing")


@pytest.mark.parametrize(
    "option",
    [["--seconds", "inf"], ["--seconds", "nan"], ["--seconds", "-1"], ["--threads", "10000"]],
)
def test_measurements_without_an_end_are_refused(option: list[str]) -> None:
    with pytest.raises(UserError, match=f"{option[0]}: expected .*, found {option[1]}"):
        paper.run(["--arch", "PPLCNet_x0_25", *option])


def test_a_short_measurement_from_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models, output = ["PPLCNet_x0_25", "MobileNetV2_x0_25"], tmp_path / "out"
    command = [
        *("--arch", *models, "--paper", "--image-size", "32", "--threads", "1"),
        *("--engines", "paddle", "paddle-no-mkldnn", "--batch-sizes", "1", "2", "--rounds", "2"),
        *("--seconds", "0", "--profile", "--latency-budget", "1000ms", "--output", str(output)),
    ]
    assert paper.run(command) == 0
    printed = capsys.readouterr().out
    assert "pairs; " in printed
    assert "Networks within 1000 ms" in printed
    found = json.loads((output / "latency.json").read_text())
    rows = found["results"]
    assert len(rows) == 2 * 3 * 2  # models, settings with the primitives' sums, batch sizes
    assert all(row["runs"] == 20 and row["median_ms"] > 0 for row in rows)
    exact = [row["relative_difference"] for row in rows if row["engine"] == "paddle-no-mkldnn"]
    assert max(exact) < 1e-3
    assert {p["model"] for p in found["profiles"]} == set(models)
    kinds = {kind["kind"] for p in found["profiles"] for kind in p["kinds"]}
    assert "convolution" in kinds
    assert {r["text"] for r in found["ratios"]} == {
        *("Paddle / sum of oneDNN primitives", "Paddle without oneDNN / tuned")
    }
    assert len(found["ordering"]) == 4  # one pair, two engines, two batch sizes
    assert found["budget"]["fit"] == ["MobileNetV2_x0_25", "PPLCNet_x0_25"]
    assert (output / "figure1.png").is_file()
    assert "| PPLCNet_x0_25 |" in (output / "latency.md").read_text()
    folder = output / "models" / "PPLCNet_x0_25_32"
    assert main(["benchmark", "--model", str(folder), *command[8:10], "--seconds", "0"]) == 0
    assert "PPLCNet_x0_25_32" in capsys.readouterr().out


def test_tables_are_aligned_and_markdown() -> None:
    rows = [["a", "bb"], ["ccc", "d"]]
    assert latency_report.text(rows) == "a    bb\nccc  d"
    assert latency_report.markdown(rows) == "| a | bb |\n| --- | --- |\n| ccc | d |"


def test_classes_differ_by_their_share() -> None:
    settings = Setting("paddle", "fp32", 1), Setting("openvino", "fp32", 1)
    results = [Result("m", setting, 1) for setting in settings]
    for found, difference in (([0, 18, 3, 4], 0.25), ([0.0, 2.0, 3.0, 4.0], 0.25)):
        reference = [type(found[0])(n) for n in (0, 1, 3, 4)]
        latency_turns._differences(
            results, dict(zip((("m", s) for s in settings), (reference, found)))
        )
        assert results[1].difference == difference
