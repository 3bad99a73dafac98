#!/usr/bin/env bash
# A whole fleet on this machine, to try things on: etcd, two coordinators, a primary and two standbys, and a worker for each.
#
#   ./deploy/fleet.sh up      builds, starts everything, and prints what to type next
#   ./deploy/fleet.sh down    stops everything, and removes every trace of it
#
# Needs Debian 12 with git and Rust; root, or sudo, only while something is missing. Everything lies in one folder:
# FLEET_DIR, /tmp/pgconvoy-fleet if that is not set. PGCONVOY=path takes that program instead of building one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly packages=(postgresql-15 etcd-server build-essential protobuf-compiler libprotobuf-dev)
readonly dir=${FLEET_DIR:-/tmp/pgconvoy-fleet}
readonly coordinators=(c1 c2) workers=(db1 db2 db3)
# Everything here answers within seconds; a machine that takes longer than this has another problem.
readonly wait_s=60

tell() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() {
    printf 'fleet: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif sudo --non-interactive true 2>/dev/null; then
        sudo --non-interactive "$@"
    else
        return 77
    fi
}

install_missing() {
    local missing=() package
    for package in "${packages[@]}"; do
        [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    as_root true || fail "type this as root, then run again: apt-get install --no-install-recommends ${missing[*]}"
    # Debian's packages would make a cluster and start daemons of their own.
    as_root mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.d/pgconvoy-fleet.conf >/dev/null
    local forbidding=
    if [[ ! -e /usr/sbin/policy-rc.d ]]; then
        forbidding=yes
        printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d >/dev/null
        as_root chmod 755 /usr/sbin/policy-rc.d
    fi
    as_root apt-get update --quiet
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "${missing[@]}"
    [[ " ${missing[*]} " != *" etcd-server "* ]] || as_root update-rc.d etcd disable
    [[ -z $forbidding ]] || as_root rm /usr/sbin/policy-rc.d
    as_root rm /etc/postgresql-common/createcluster.d/pgconvoy-fleet.conf
}

# PostgreSQL refuses to run as root: everything below runs as an ordinary user.
if [[ $(id -u) -eq 0 ]]; then
    readonly become=(setpriv --reuid=postgres --regid=postgres --init-groups env "HOME=$dir")
else
    readonly become=(env)
fi
user() { (cd "$dir" && "${become[@]}" "$@"); }
write() { user tee "$1" >/dev/null; }

free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM))
        [[ " ${taken[*]-} " == *" $port "* ]] || (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    taken+=("$port")
    picked=$port
}

# In a session of its own, so that it outlives this script; its number is kept, so that nothing else is ever ended.
daemon() {
    local name=$1
    shift
    # shellcheck disable=SC2016
    user setsid bash -c 'echo $$ >"pids/$0"; exec "$@" >"log/$0" 2>&1 </dev/null' "$name" "$@" &
}

await() {
    local what=$1 until=$((SECONDS + wait_s))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < until)) || fail "$what took longer than $wait_s s; see $dir/log"
        sleep 0.2
    done
}

sql() { user "$bin/psql" --host="$dir" --port="$1" --username=postgres --no-psqlrc --tuples-only --no-align --command="$2"; }
is_streaming() { [[ $(sql "${pg[db1]}" "select count(*) from pg_stat_replication where state = 'streaming'") == 2 ]]; }
sees_workers() { [[ $("$dir/pgconvoy" workers list --output=json | grep --only-matching '"up"' | wc --lines) == 3 ]]; }

# What all members have in common, and then what is each one's own.
config() {
    local name=$1 host=$2
    cat <<TOML
[repo.1]
path = "$dir/repo1"
cipher = "aes-256-gcm"
key-file = "$dir/repo1.key"

[repo.2]
path = "$dir/repo2"
cipher = "aes-256-gcm"
key-file = "$dir/repo2.key"

[backup]
start-fast = true
backup-standby = "prefer"

[[stanza.main.pg]]
path = "$dir/$host"
port = ${pg[$host]}
socket-path = "$dir"
user = "postgres"

[paths]
lock = "$dir/$name.lock"
spool = "$dir/$name.spool"
log = "$dir/log"

[fleet]
name = "try"
ca-file = "$dir/pki/ca.crt"
TOML
}

member() {
    config "$1" "$2"
    cat <<TOML
etcd = ["http://127.0.0.1:$etcd"]
coordinators = ["127.0.0.1:${quic[c1]}", "127.0.0.1:${quic[c2]}"]
cert-file = "$dir/pki/$1.crt"
key-file = "$dir/pki/$1.key"
TOML
}

up() {
    [[ ! -e $dir ]] || fail "$dir is there already: is the fleet up? ./deploy/fleet.sh down"
    install_missing
    local program=${PGCONVOY:-}
    if [[ -z $program ]]; then
        tell "Building pgconvoy (once; some minutes)"
        cargo build --release --locked --bin pgconvoy
        program=${CARGO_TARGET_DIR:-target}/release/pgconvoy
    fi
    bin=$(dirname "$(dpkg --listfiles postgresql-15 | grep --max-count=1 '/bin/initdb$')")
    local begun=$SECONDS name number
    declare -g taken=() picked etcd
    declare -gA pg quic http
    mkdir "$dir"
    trap 'status=$?; ((status == 0)) || echo "fleet: it did not come up; ./deploy/fleet.sh down removes what there is" >&2' EXIT
    chmod 755 "$dir"
    mkdir "$dir/bin" "$dir/pids" "$dir/log"
    cp "$program" "$dir/bin/pgconvoy"
    [[ $(id -u) -ne 0 ]] || chown postgres "$dir" "$dir/pids" "$dir/log"
    for name in "${workers[@]}"; do free_port && pg[$name]=$picked; done
    for name in "${coordinators[@]}"; do
        free_port && quic[$name]=$picked
        free_port && http[$name]=$picked
    done
    free_port && etcd=$picked
    free_port && local peers=$picked

    tell "A primary with some data, and two standbys that stream from it"
    user "$bin/initdb" --pgdata="$dir/db1" --data-checksums --username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync >/dev/null
    user tee --append "$dir/db1/postgresql.conf" >/dev/null <<CONF
listen_addresses = ''
unix_socket_directories = '$dir'
archive_mode = on
archive_command = '$dir/bin/pgconvoy --config=$dir/db1.toml --stanza=main archive-push %p'
CONF
    start_server db1
    user "$bin/pgbench" --host="$dir" --port="${pg[db1]}" --username=postgres --initialize --scale=20 --quiet postgres 2>/dev/null
    for name in db2 db3; do
        user "$bin/pg_basebackup" --host="$dir" --port="${pg[db1]}" --username=postgres --pgdata="$dir/$name" \
            --write-recovery-conf --wal-method=stream --checkpoint=fast --no-sync
        user sed --in-place "s#$dir/db1.toml#$dir/$name.toml#" "$dir/$name/postgresql.conf"
        start_server "$name"
    done
    await "streaming to the standbys" is_streaming

    tell "Keys, certificates and configurations"
    for number in 1 2; do user "$dir/bin/pgconvoy" repo-key create "$dir/repo$number.key" >/dev/null; done
    config ca db1 | write "$dir/ca.toml"
    local issue=("$dir/bin/pgconvoy" "--config=$dir/ca.toml" cert)
    user "${issue[@]}" init --dir="$dir/pki" >/dev/null
    for name in "${coordinators[@]}"; do
        user "${issue[@]}" issue --dir="$dir/pki" --role=coordinator --name="$name" --san=127.0.0.1 >/dev/null
        { member "$name" db1 && printf '\n[coordinator]\nquic-listen = "127.0.0.1:%s"\nquic-address = "127.0.0.1:%s"\nhttp-listen = "127.0.0.1:%s"\n' \
            "${quic[$name]}" "${quic[$name]}" "${http[$name]}"; } | write "$dir/$name.toml"
    done
    for name in "${workers[@]}"; do
        user "${issue[@]}" issue --dir="$dir/pki" --role=worker --name="$name" --san=127.0.0.1 >/dev/null
        { member "$name" "$name" && printf '\n[worker]\nslots = 1\n'; } | write "$dir/$name.toml"
    done
    { config client db1 && printf 'api = ["https://127.0.0.1:%s", "https://127.0.0.1:%s"]\ntoken-file = "%s/token"\n' \
        "${http[c1]}" "${http[c2]}" "$dir"; } | write "$dir/client.toml"
    write "$dir/pgconvoy" <<SH
#!/bin/sh
# pgconvoy as somebody of this fleet, as the user that its servers run as.
cd "$dir" && exec ${become[*]} "$dir/bin/pgconvoy" --config="$dir/client.toml" --stanza=main "\$@"
SH
    user chmod 755 "$dir/pgconvoy"
    rm "$dir/ca.toml"

    tell "etcd, two coordinators, three workers"
    daemon etcd etcd --name=try --data-dir="$dir/etcd" \
        --listen-client-urls="http://127.0.0.1:$etcd" --advertise-client-urls="http://127.0.0.1:$etcd" \
        --listen-peer-urls="http://127.0.0.1:$peers" --initial-advertise-peer-urls="http://127.0.0.1:$peers" \
        --initial-cluster="try=http://127.0.0.1:$peers"
    user "$dir/bin/pgconvoy" --config="$dir/db1.toml" --stanza=main stanza-create >/dev/null
    await "etcd" create_token
    for name in "${coordinators[@]}"; do daemon "$name" "$dir/bin/pgconvoy" --config="$dir/$name.toml" --log-level-console=info coordinator; done
    for name in "${workers[@]}"; do daemon "$name" "$dir/bin/pgconvoy" --config="$dir/$name.toml" --log-level-console=info worker; done
    await "three workers" sees_workers
    what_next $((SECONDS - begun))
}

start_server() {
    user tee --append "$dir/$1/postgresql.conf" >/dev/null <<<"port = ${pg[$1]}"
    user "$bin/pg_ctl" --pgdata="$dir/$1" --log="$dir/log/$1.postgresql" --wait --timeout="$wait_s" start >/dev/null
}

create_token() {
    local token
    token=$(user "$dir/bin/pgconvoy" --config="$dir/c1.toml" token create --name=operator --role=operator 2>/dev/null) || return 1
    head --lines=1 <<<"$token" | write "$dir/token"
    user chmod 600 "$dir/token"
}

what_next() {
    tell "The fleet is up, after $1 s. What to type next:"
    cat <<END

  $dir/pgconvoy workers list
  $dir/pgconvoy backup --type=full --unit-size=1MiB      # read from the primary and both standbys at once
  $dir/pgconvoy info

  # A backup in the background, and a worker that is killed in the middle of it; then it comes back
  job=\$($dir/pgconvoy backup --type=full --unit-size=1MiB --detach)
  kill -KILL \$(cat $dir/pids/db2)
  $dir/pgconvoy job follow \$job
  ${become[*]} $dir/bin/pgconvoy --config=$dir/db2.toml worker >>$dir/log/db2 2>&1 &

  # A restore beside the cluster, and a server on it
  $dir/pgconvoy restore --pg-path=$dir/restored --archive-mode=off
  ${become[*]} $bin/pg_ctl --pgdata=$dir/restored --log=$dir/log/restored --options=--port=$((pg[db1] + 1)) --wait start
  psql --host=$dir --port=$((pg[db1] + 1)) --username=postgres --command='select count(*) from pgbench_accounts'

  the primary:  psql --host=$dir --port=${pg[db1]} --username=postgres
  coordinators: https://127.0.0.1:${http[c1]} and https://127.0.0.1:${http[c2]}; an operator's token is in $dir/token,
                the authority of their certificates in $dir/pki/ca.crt
  logs:         $dir/log
  the end:      $0 down
END
}

# Whoever is still there after so long is not asked any more.
end_process() {
    local pid=$1 signal=$2 until=$((SECONDS + 10))
    kill "-$signal" "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do
        if ((SECONDS >= until)); then
            kill -KILL "$pid" 2>/dev/null || true
            until=$((SECONDS + 10))
        fi
        sleep 0.1
    done
}

processes() {
    local process
    for process in /proc/[0-9]*; do
        if [[ $(readlink "$process/exe" 2>/dev/null) == "$dir/bin/pgconvoy" ]] &&
            tr '\0' ' ' <"$process/cmdline" 2>/dev/null | grep --quiet -- "$1"; then
            echo "${process#/proc/}"
        fi
    done
}

down() {
    [[ -e $dir ]] || fail "nothing is at $dir"
    [[ -e $dir/bin/pgconvoy && -d $dir/pids ]] || fail "$dir is not a fleet of this script: it is left alone"
    local file pid
    # Processes of this fleet's own copy of the program, however they were started; workers first, so that they can say goodbye.
    for file in $(processes worker) $(processes coordinator) $(processes .); do end_process "$file" TERM; done
    for file in "$dir"/*/postmaster.pid; do
        [[ ! -e $file ]] || end_process "$(head --lines=1 "$file")" INT
    done
    if [[ -e $dir/pids/etcd ]]; then
        pid=$(<"$dir/pids/etcd")
        [[ $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) != *"$dir/etcd"* ]] || end_process "$pid" TERM
    fi
    rm --recursive --force "$dir"
    echo "gone: $dir"
}

case ${1-} in
up) up ;;
down) down ;;
*)
    echo "usage: $0 up|down" >&2
    exit 64
    ;;
esac
