#!/usr/bin/env bash
# Runs every benchmark and prints one table. Fails beyond 1.5 times a budget.
#
#   ./benches/run.sh --short   little data, few rounds: what the check of the whole project runs. It uses what the tests have
#                              built, so other people's code is optimised less than it is in a release.
#   ./benches/run.sh           3 GB, more rounds; the table replaces benches/RESULTS.md
#
# PGBACKREST=path compares with another pgBackRest than the one on the PATH. What is missing is installed, on Debian.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly benchmarks=(plan pipeline compare files scaling offload)
readonly results=benches/RESULTS.md
form=full
arguments=()
# Nothing here speaks to object stores, whose libraries take minutes to optimise.
build=(--profile ci --no-default-features)
case ${1-} in
--short)
    form=short
    arguments=(--short)
    build=(--profile dev --config benches/short.toml --workspace)
    ;;
'') ;;
*)
    echo "usage: $0 [--short]" >&2
    exit 64
    ;;
esac

# As root directly, else by a sudo that asks nothing.
as_root() {
    if [[ $(id -u) -eq 0 ]]; then "$@"; else sudo --non-interactive "$@"; fi
}

# tests/run.sh installs all of this too; here it is for who runs the benchmarks alone.
install_what_is_missing() {
    local missing=()
    [[ -x /usr/lib/postgresql/15/bin/initdb ]] || command -v pg_config >/dev/null || missing+=(postgresql-15)
    command -v "${PGBACKREST:-pgbackrest}" >/dev/null || missing+=(pgbackrest)
    command -v etcd >/dev/null || missing+=(etcd-server)
    command -v etcdctl >/dev/null || missing+=(etcd-client)
    command -v protoc >/dev/null || missing+=(protobuf-compiler libprotobuf-dev)
    if ((${#missing[@]} > 0)); then
        echo "installing ${missing[*]}" >&2
        as_root apt-get update --quiet >&2
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "${missing[@]}" >&2
    fi
}

machine() {
    local model memory
    model=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
    memory=$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)
    echo "$(nproc) cores (${model:-$(uname -m)}), $memory of memory, Linux $(uname -r)"
}

header() {
    cat <<END
# What the benchmarks measured

Date: $(date --utc +%F), $1 form, load before it began: $(cut -d ' ' -f 1-3 /proc/loadavg).
Machine: $(machine).
Competitor: $("${PGBACKREST:-pgbackrest}" version). Server: $(/usr/lib/postgresql/15/bin/postgres --version 2>/dev/null || pg_config --version).
Commit: $(git rev-parse --short HEAD 2>/dev/null || echo unknown). Repeat it with \`./benches/run.sh\`.

A figure is the median of rounds in which everybody had a turn; a ratio is the median of the rounds' ratios. "missed" is
beyond the budget, "FAILED" beyond 1.5 times the budget, which fails the run.

| what | measured | budget | verdict | how |
|---|---|---|---|---|
END
}

install_what_is_missing
build+=(--quiet --locked)
cargo build "${build[@]}" "${benchmarks[@]/#/--bench=}"
table=$(mktemp)
trap 'rm -f "$table"' EXIT
header "$form" >"$table"
failed=()
for benchmark in "${benchmarks[@]}"; do
    echo "== $benchmark" >&2
    cargo bench "${build[@]}" --bench "$benchmark" -- "${arguments[@]}" >>"$table" || failed+=("$benchmark")
done
printf '\nLoad when it ended: %s. The benchmarks themselves keep two cores busy: what is above 2 is somebody else.\n' \
    "$(cut -d ' ' -f 1-3 /proc/loadavg)" >>"$table"
cat "$table"
if [[ $form == full ]]; then
    cp "$table" "$results"
fi
if ((${#failed[@]} > 0)); then
    echo "beyond 1.5 times a budget, or broken: ${failed[*]}" >&2
    exit 1
fi
