#!/usr/bin/env bash
# Everything that needs a GPU, in one command: builds, probes, tests and measures.
#
#     bash benchmarks/gpu/run.sh OUT_DIR [quick|full] [further flags of run.py]
#
# full ends within 9 minutes, quick within 4. It needs torch, and nothing from a network; see
# docs/gpu-benchmarks.md. PYTHON names the interpreter, PDRT_WHEELS a folder of wheels for missing
# packages.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}
command -v "$python" >/dev/null || {
    echo "run.sh: no interpreter '$python'; name one: PYTHON=/path/to/python3 $0 ..." >&2
    exit 2
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "run.sh: pdrt needs Python 3.11 or newer; $python is $("$python" -V)" >&2
    exit 2
}

if [ -n "${PDRT_WHEELS:-}" ]; then # parts run in the checkout, so a relative name would mean another
    PDRT_WHEELS=$(cd "$PDRT_WHEELS" && pwd) || exit 2
    export PDRT_WHEELS
fi

# Where images keep the toolkit and the driver's tools, MPS among them, if the PATH does not say so.
for folder in /usr/local/cuda/bin /usr/local/nvidia/bin; do
    [ -d "$folder" ] && PATH="$PATH:$folder"
done
command -v "${CXX:-c++}" >/dev/null || export CXX=g++

# Packages that the machine lacks go into a folder of this run. pdrt asks for its own version, which
# a checkout that was never installed does not have.
work=$(mktemp -d "${TMPDIR:-/tmp}/pdrt-gpu-XXXXXX")
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/pyproject.toml" | head -1)
mkdir -p "$work/site/pdrt-$version.dist-info"
printf 'Metadata-Version: 2.1\nName: pdrt\nVersion: %s\n' "$version" \
    >"$work/site/pdrt-$version.dist-info/METADATA"

export PYTHONPATH="$root:$work/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "$python" "$root/benchmarks/gpu/run.py" "$work" "$@"
