#!/usr/bin/env bash
# A first tour on a throw-away cluster: back it up to two repositories at once, destroy it, bring it back, prove it.
#
# Needs Debian 12 with git and Rust; root, or sudo, only while something is missing. Touches nothing outside of one
# temporary folder, which it removes at the end (KEEP=1 leaves it, and says where).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly packages=(postgresql-15 build-essential openssl protobuf-compiler libprotobuf-dev)
readonly port=54329
# PostgreSQL answers within seconds; a machine that takes longer than this has another problem.
readonly wait_s=60

tell() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [[ $(id -u) -eq 0 ]]; then "$@"
    elif sudo --non-interactive true 2>/dev/null; then sudo --non-interactive "$@"
    else return 77
    fi
}

install_missing() {
    local missing=() package
    for package in "${packages[@]}"; do
        [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    as_root true || fail "type this as root, then run again: apt-get install --no-install-recommends ${missing[*]}"
    # Without this Debian would make and start a cluster of its own.
    as_root mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.d/pgconvoy-quickstart.conf >/dev/null
    as_root apt-get update --quiet
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "${missing[@]}"
    as_root rm /etc/postgresql-common/createcluster.d/pgconvoy-quickstart.conf
}

# PostgreSQL refuses to run as root: everything below runs as an ordinary user.
if [[ $(id -u) -eq 0 ]]; then
    user() { setpriv --reuid=postgres --regid=postgres --init-groups env HOME="$scratch" PATH="$PATH" "$@"; }
else
    user() { "$@"; }
fi

# Shows a command as somebody would type it, then runs it.
run() {
    printf '\033[36m$ %s\033[0m\n' "${*//$scratch/\$DIR}" >&2
    (cd "$scratch" && user "$@")
}

sql() { (cd "$scratch" && user psql --host="$scratch" --port="$port" --username=postgres --no-psqlrc --tuples-only --no-align "$@"); }

await() {
    local until=$((SECONDS + wait_s))
    until [[ $(sql --command='select pg_is_in_recovery()' 2>/dev/null) == "$1" ]]; do
        ((SECONDS < until)) || { tail -n 20 "$scratch/log" >&2; fail "PostgreSQL did not become ready in $wait_s s"; }
        sleep 0.2
    done
}

at_the_end() {
    local status=$?
    [[ ! -e $scratch/cluster/postmaster.pid ]] || user "$bin/pg_ctl" --pgdata="$scratch/cluster" --mode=immediate stop >/dev/null || true
    if [[ -n ${KEEP:-} ]]; then echo "left in place: $scratch"; else rm -rf "$scratch"; fi
    exit "$status"
}

install_missing
tell "Building pgconvoy (once; some minutes)"
cargo build --release --locked --bin pgconvoy

scratch=$(mktemp --directory /tmp/pgconvoy-quickstart.XXXXXX)
trap at_the_end EXIT
chmod 755 "$scratch"
cp "${CARGO_TARGET_DIR:-target}/release/pgconvoy" "$scratch/pgconvoy"
[[ $(id -u) -ne 0 ]] || chown postgres "$scratch"
bin=$(dirname "$(dpkg --listfiles postgresql-15 | grep --max-count=1 '/bin/initdb$')")
export PATH="$scratch:$bin:$PATH"

tell "1. A throw-away PostgreSQL cluster with some data"
run initdb --pgdata="$scratch/cluster" --data-checksums --username=postgres --auth=trust --encoding=UTF8 --locale=C >/dev/null
user tee --append "$scratch/cluster/postgresql.conf" >/dev/null <<CONF
port = $port
listen_addresses = ''
unix_socket_directories = '$scratch'
wal_level = replica
archive_mode = on
archive_command = '$scratch/pgconvoy --config=$scratch/pgconvoy.toml --stanza=tour archive-push %p'
CONF
run pg_ctl --pgdata="$scratch/cluster" --log="$scratch/log" --wait start >/dev/null
user pgbench --host="$scratch" --port="$port" --username=postgres --initialize --scale=20 --quiet postgres 2>/dev/null
echo "$(sql --command='select pg_size_pretty(pg_database_size(current_database()))') in pgbench's tables"

tell "2. A configuration: two repositories, each encrypted with a key of its own"
run pgconvoy repo-key create "$scratch/repo1.key"
run pgconvoy repo-key create "$scratch/repo2.key"
user tee "$scratch/pgconvoy.toml" <<TOML
[repo.1]
path = "$scratch/repo1"
cipher = "aes-256-gcm"
key-file = "$scratch/repo1.key"

[repo.2]
path = "$scratch/repo2"
cipher = "aes-256-gcm"
key-file = "$scratch/repo2.key"

[backup]
start-fast = true

[[stanza.tour.pg]]
path = "$scratch/cluster"
port = $port
socket-path = "$scratch"

[paths]
lock = "$scratch/lock"
spool = "$scratch/spool"
log = "$scratch/log.d"
TOML
run pgconvoy --config="$scratch/pgconvoy.toml" --stanza=tour stanza-create
run pgconvoy --config="$scratch/pgconvoy.toml" --stanza=tour check

tell "3. A full backup to both repositories, from one read of the data, while pgbench writes"
user pgbench --host="$scratch" --port="$port" --username=postgres --client=2 --time=5 postgres >/dev/null 2>&1 &
load=$!
run pgconvoy --config="$scratch/pgconvoy.toml" --stanza=tour backup --type=full
wait "$load"

tell "4. What changed since: an incremental backup stores only new blocks"
run pgconvoy --config="$scratch/pgconvoy.toml" --stanza=tour backup --type=incr

tell "5. What there is, and whether it can be trusted"
run pgconvoy --config="$scratch/pgconvoy.toml" --stanza=tour info
run pgconvoy --config="$scratch/pgconvoy.toml" --stanza=tour verify

tell "6. Work goes on after the backup; then somebody drops a table, and the cluster is destroyed"
sql --quiet --command="create table written_later as select n, md5(n::text) from generate_series(1, 100000) n"
readonly question="select (select count(*) from pgbench_history), (select sum(abalance) from pgbench_accounts), (select count(*) || md5(string_agg(md5, '' order by n)) from written_later)"
before=$(sql --command="$question")
moment=$(sql --command='select clock_timestamp()')
echo "a good moment: $moment"
sleep 1
sql --quiet --command='drop table written_later'
sql --command='select pg_switch_wal()' >/dev/null
run pg_ctl --pgdata="$scratch/cluster" --mode=fast --wait stop >/dev/null
run rm --recursive "$scratch/cluster"
echo "gone: $scratch/cluster"

tell "7. Restore to the good moment, and let PostgreSQL recover from the archive"
run pgconvoy --config="$scratch/pgconvoy.toml" --stanza=tour restore --type=time "--target=$moment" --target-action=promote
run pg_ctl --pgdata="$scratch/cluster" --log="$scratch/log" --wait --timeout="$wait_s" start >/dev/null
await f

tell "8. The same data?"
after=$(sql --command="$question")
printf 'before: %s\nafter:  %s\n' "$before" "$after"
[[ $before == "$after" ]] || fail "the data differ"
echo "Yes, to the last row."
