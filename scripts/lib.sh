# Functions shared by scripts/test and scripts/explore, which source this file from the repository's root.
# shellcheck shell=bash

postgres_dir=
as_postgres=()

# Prints the directory of initdb and pg_ctl, or nothing if they are not installed.
postgres_bin() {
    local initdb
    initdb=$(command -v initdb || find /usr/lib/postgresql/*/bin -name initdb 2>/dev/null | sort -V | tail -n 1)
    [[ -z $initdb ]] || dirname "$initdb"
}

# Starts a temporary PostgreSQL server and sets SEKISHO_TEST_POSTGRES. stop_postgres removes it.
start_postgres() {
    local bin password port
    bin=$(postgres_bin)
    postgres_dir=$(mktemp -d /tmp/sekisho-test.XXXXXX)
    password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    echo "$password" >"$postgres_dir/password"
    # PostgreSQL refuses to run as root.
    if ((EUID == 0)); then
        local user=postgres
        id "$user" >/dev/null 2>&1 || user=daemon
        as_postgres=(runuser -u "$user" --)
        chown -R "$user" "$postgres_dir"
    fi
    # Not SCRAM: a debug build spent nine tenths of its time on PostgreSQL in the rounds of each connection.
    in_postgres_dir "$bin/initdb" -D "$postgres_dir/data" -U sekisho --pwfile="$postgres_dir/password" \
        --auth=password --encoding=UTF8 --locale=C.UTF-8 --no-sync || postgres_failed

    # The server itself finds out whether the port is free, so that no other program takes it in between.
    # The ports are below the ephemeral range.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        port=$((20000 + (RANDOM << 15 | RANDOM) % 12000))
        if in_postgres_dir "$bin/pg_ctl" start -w -D "$postgres_dir/data" -l "$postgres_dir/server.log" \
            -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$postgres_dir \
            -c max_connections=300 -c fsync=off -c full_page_writes=off"; then
            export SEKISHO_TEST_POSTGRES="postgres://sekisho:$password@127.0.0.1:$port/postgres"
            echo "PostgreSQL: $("$bin/postgres" --version), port $port"
            return
        fi
    done
    postgres_failed
}

postgres_failed() {
    cat "$postgres_dir"/*.log >&2
    echo "PostgreSQL did not start." >&2
    exit 1
}

# in_postgres_dir COMMAND…: runs as the server's user, with the output in a log for postgres_failed.
in_postgres_dir() {
    (cd "$postgres_dir" && ${as_postgres[@]+"${as_postgres[@]}"} "$@") >>"$postgres_dir/commands.log" 2>&1
}

stop_postgres() {
    [[ -n $postgres_dir ]] || return 0
    if [[ -e $postgres_dir/data/postmaster.pid ]]; then
        in_postgres_dir "$(postgres_bin)/pg_ctl" stop -w -m immediate -D "$postgres_dir/data" || true
    fi
    rm -rf "$postgres_dir"
}

# Prints the path of libfaketime, or nothing if it is not installed.
faketime_path() {
    echo "${SEKISHO_TEST_FAKETIME:-$(ls /usr/lib/*/faketime/libfaketime.so.1 2>/dev/null | head -n 1 || true)}"
}

# race_lab OPTION…: the short form, with real gateways that are killed and restarted, and whose clocks step, under
# browsers and thieves.
race_lab() {
    local database=()
    # The lab restarts a PostgreSQL server of its own. It uses a given server, but never restarts it.
    if [[ -z $(postgres_bin) ]]; then
        database=(--database sqlite)
        [[ -z ${SEKISHO_TEST_POSTGRES:-} ]] || database=(--postgres "$SEKISHO_TEST_POSTGRES")
    fi
    local clocks=() library
    library=$(faketime_path)
    if [[ -n $library ]]; then
        clocks=(--clock-steps 2s --libfaketime "${library%/*}/libfaketimeMT.so.1")
    else
        echo "The race lab steps no clocks, since libfaketime is not installed."
    fi
    # In one call, so that both have the features of the tests' build.
    cargo build --quiet --locked --bin sekisho --example race_lab || return
    # Thefts are detected by access tokens older than five thirds of the grace, which therefore live for 3 s longer.
    cargo run --quiet --locked --example race_lab -- --browsers 16 --victims 8 --access-ttl 8s --grace 3s \
        --kill-every 3s --restart-every 5s ${database[@]+"${database[@]}"} ${clocks[@]+"${clocks[@]}"} "$@"
}
