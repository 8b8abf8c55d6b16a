# shellcheck shell=bash
# What the scripts share; sourced by them, never run.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Before Debian's own cargo, which is too old.
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

say() { printf '%s\n' "$*" >&2; }
step() { printf '\n== %s\n' "$*" >&2; }
die() {
    say "error: $*"
    exit 1
}

# Sets `work` to a directory of this script's own, below $1. When the script ends, however it ends, the processes in
# `started` are stopped, what is mounted below `work` is unmounted, and `work` is removed unless `keep_work` is true.
started=() keep_work=false
make_work_directory() {
    work=$(mktemp -d "$1/dockless-script.XXXXXX")
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

clean_up() {
    local status=$? process mount_point
    trap - EXIT
    set +e
    for process in "${started[@]}"; do
        kill "$process" 2>/dev/null && wait "$process" 2>/dev/null
    done
    while read -r mount_point; do
        umount --lazy "$mount_point"
    done < <(awk -v prefix="$work/" 'index($5, prefix) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
    if $keep_work; then
        say "kept: $work"
    else
        rm -rf --one-file-system "$work"
    fi
    exit "$status"
}

# Sets `dockless` to the program to run: $DOCKLESS_BINARY, or else a release build of this checkout.
build_dockless() {
    dockless=${DOCKLESS_BINARY:-}
    [[ -z $dockless ]] || return 0
    (cd "$repository" && cargo build --release --locked --quiet --bin dockless)
    dockless=${CARGO_TARGET_DIR:-$repository/target}/release/dockless
}

# Starts Debian's docker-registry on a free loopback port and sets `registry` to its HOST:PORT. Everything of it is
# below `work`. The kernel picks the port (`:0`); the registry's log tells which.
start_registry() {
    local directory=$work/registry attempt
    mkdir "$directory"
    cat >"$directory/config.yml" <<CONFIG
version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $directory/data}}
http: {addr: "127.0.0.1:0"}
CONFIG
    docker-registry serve "$directory/config.yml" >"$directory/log" 2>&1 &
    started+=($!)
    for ((attempt = 0; attempt < 100; attempt++)); do
        registry=$(sed -n 's/.*listening on \(127\.0\.0\.1:[0-9]*\).*/\1/p' "$directory/log")
        [[ -z $registry ]] || return 0
        sleep 0.1
    done
    cat "$directory/log" >&2
    die "docker-registry did not listen within 10 s"
}

# Puts tag $2 of the OCI layout $1 into the registry as $3.
push() {
    skopeo copy --quiet --dest-tls-verify=false "oci:$1:$2" "docker://$registry/$3"
}
