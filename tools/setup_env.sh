# Sourced by quickstart.sh and run_tests.sh: a Python with the requirements, in the active virtual
# environment or else in .venv. Usage: source tools/setup_env.sh EXTRA_PACKAGE_OR_FILE...
# PYTHON=python3.12 chooses the interpreter that makes .venv.

if [ -z "${VIRTUAL_ENV:-}" ]; then
  if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import sys' 2>/dev/null; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
      echo "error: ${PYTHON:-python3} is missing or older than 3.10; set PYTHON=/path/to/python3" >&2
      exit 1
    }
    echo "making the virtual environment .venv"
    "${PYTHON:-python3}" -m venv .venv
  fi
  # shellcheck disable=SC1091
  source .venv/bin/activate
fi

# pip is asked only when the wanted packages changed, so that a second run needs no network.
further=()
for item in "$@"; do
  if [ -f "$item" ]; then further+=(-r "$item"); else further+=("$item"); fi
done
wanted="$(cat requirements.txt; for item in "${further[@]}"; do
  if [ -f "$item" ]; then cat "$item"; else printf '%s\n' "$item"; fi
done; python --version)"
stamp="$VIRTUAL_ENV/.ppcls_lite_requirements"
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  echo "installing the requirements into $VIRTUAL_ENV"
  python -m pip install --quiet --disable-pip-version-check -r requirements.txt "${further[@]}"
  printf '%s\n' "$wanted" >"$stamp"
fi
