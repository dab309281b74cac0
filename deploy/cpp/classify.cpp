// Runs an exported network with OpenVINO: the smallest program that does it right.
//
//   classify MODEL.onnx INPUT.f32 CHANNELS HEIGHT WIDTH [THREADS [RUNS]]
//
// INPUT.f32 holds images that are pre-processed already, float32 in the machine's byte order,
// (N, C, H, W); N follows from its size. Prints for each image its five best classes, then the
// median latency of RUNS runs on all N images. README.md says how to make the two files.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include <openvino/openvino.hpp>

namespace {

constexpr int kBest = 5;
constexpr int kWarmUp = 3;

std::vector<char> read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw std::runtime_error(path + ": cannot be read");
    }
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::size_t positive(const char* word, const char* what) {
    const long number = std::strtol(word, nullptr, 10);
    if (number < 1) {
        throw std::runtime_error(std::string(what) + ": expected a number from 1 on, found " + word);
    }
    return static_cast<std::size_t>(number);
}

// The indices of the largest `count` values of a row, the largest first.
std::vector<std::size_t> best(const float* row, std::size_t classes, std::size_t count) {
    std::vector<std::size_t> order(classes);
    std::iota(order.begin(), order.end(), std::size_t{0});
    count = std::min(count, classes);
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count),
                      order.end(),
                      [row](std::size_t a, std::size_t b) { return row[a] > row[b]; });
    order.resize(count);
    return order;
}

int run(int argc, char** argv) {
    if (argc < 6 || argc > 8) {
        std::fprintf(stderr,
                     "usage: classify MODEL.onnx INPUT.f32 CHANNELS HEIGHT WIDTH [THREADS [RUNS]]\n");
        return 2;
    }
    const std::size_t channels = positive(argv[3], "CHANNELS");
    const std::size_t height = positive(argv[4], "HEIGHT");
    const std::size_t width = positive(argv[5], "WIDTH");
    const std::size_t threads = argc > 6 ? positive(argv[6], "THREADS") : 1;
    const std::size_t runs = argc > 7 ? positive(argv[7], "RUNS") : 100;

    std::vector<char> bytes = read_file(argv[2]);
    const std::size_t image = channels * height * width * sizeof(float);
    if (bytes.empty() || bytes.size() % image != 0) {
        throw std::runtime_error(std::string(argv[2]) + ": holds " + std::to_string(bytes.size()) +
                                 " bytes, expected a multiple of " + std::to_string(image));
    }
    const std::size_t count = bytes.size() / image;

    ov::Core core;
    std::shared_ptr<ov::Model> model = core.read_model(argv[1]);
    // A fixed shape lets OpenVINO choose its kernels and buffers once.
    model->reshape({static_cast<std::int64_t>(count), static_cast<std::int64_t>(channels),
                    static_cast<std::int64_t>(height), static_cast<std::int64_t>(width)});
    ov::CompiledModel compiled = core.compile_model(
        model, "CPU", ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
        ov::inference_num_threads(static_cast<int>(threads)),
        ov::hint::inference_precision(ov::element::f32));  // bf16 is faster where the CPU has it

    ov::InferRequest request = compiled.create_infer_request();
    // The request reads `bytes` in place, which has to live as long as the request.
    request.set_input_tensor(
        ov::Tensor(ov::element::f32, {count, channels, height, width}, bytes.data()));

    std::vector<double> milliseconds;
    for (std::size_t i = 0; i < runs + kWarmUp; ++i) {
        const auto start = std::chrono::steady_clock::now();
        request.infer();
        const std::chrono::duration<double, std::milli> taken =
            std::chrono::steady_clock::now() - start;
        if (i >= kWarmUp) {
            milliseconds.push_back(taken.count());
        }
    }

    const ov::Tensor output = request.get_output_tensor();
    const std::size_t classes = output.get_shape().at(1);
    for (std::size_t n = 0; n < count; ++n) {
        const float* row = output.data<float>() + n * classes;
        std::printf("image %zu:", n);
        for (std::size_t index : best(row, classes, kBest)) {
            std::printf(" %zu %.6f", index, static_cast<double>(row[index]));
        }
        std::printf("\n");
    }
    std::sort(milliseconds.begin(), milliseconds.end());
    std::printf("median of %zu runs with %zu thread(s): %.3f ms\n", runs, threads,
                milliseconds[milliseconds.size() / 2]);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 1;
    }
}
