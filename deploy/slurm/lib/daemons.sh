# shellcheck shell=bash
# munged, MariaDB, slurmdbd, slurmctld. Sourced by cluster.sh. Each start_… returns when the daemon answers.

# In a mount and UTS namespace where the host has that name and the cluster's hosts file: see make_hosts_file.
# Replaces this process, so the record is the daemon's own.
# shellcheck disable=SC2016  # for the sh in there to expand
SET_HOST_NAME='hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'
spawn_on_host() { # NAME HOST COMMAND…
    local name=$1 host=$2
    shift 2
    spawn "$name" unshare --mount --uts -- sh -c "$SET_HOST_NAME" sh "$host" "$CLUSTER_HOME/etc/hosts" "$@"
}

AS_SLURM=(setpriv --reuid slurm --regid slurm --clear-groups --)
AS_MUNGE=(setpriv --reuid munge --regid munge --clear-groups --)
AS_MYSQL=(setpriv --reuid mysql --regid mysql --clear-groups --)

start_munge() {
    ! is_running munge || return 0
    # What a killed one left would keep the next from starting.
    rm -f "$MUNGE_SOCKET"*
    spawn munge "${AS_MUNGE[@]}" munged --foreground --key-file="$CLUSTER_HOME/etc/munge.key" \
        --socket="$MUNGE_SOCKET" --pid-file="$CLUSTER_HOME/munge/munged.pid" \
        --log-file="$CLUSTER_HOME/munge/munged.log" --seed-file="$CLUSTER_HOME/munge/seed"
    wait_for_daemon munge 10 munge --no-input --socket "$MUNGE_SOCKET"
}

start_db() {
    ! is_running db || return 0
    need_free_port "$DB_PORT"
    [ -d "$CLUSTER_HOME/db/mysql" ] || make_db || return
    # Quick rather than safe against a power cut: it holds a test cluster's history.
    spawn db "${AS_MYSQL[@]}" mariadbd --no-defaults --datadir="$CLUSTER_HOME/db" --tmpdir="$DB_TMP" --port="$DB_PORT" \
        --bind-address=127.0.0.1 --socket="$CLUSTER_HOME/db/mysql.sock" --pid-file="$CLUSTER_HOME/db/mysql.pid" \
        --skip-name-resolve --skip-log-bin --performance-schema=OFF --max-connections=60 \
        --innodb-buffer-pool-size=64M --innodb-log-file-size=32M --innodb-lock-wait-timeout=900 \
        --innodb-flush-log-at-trx-commit=0 --innodb-doublewrite=0
    wait_for_daemon db 30 mariadb-admin --no-defaults --socket="$CLUSTER_HOME/db/mysql.sock" --user=root ping &&
        make_slurm_database
}

# Not /tmp: a MariaDB that starts removes the temporary tables that it finds there, those of another one, too.
DB_TMP=$CLUSTER_HOME/db-tmp

make_db() {
    mkdir -p "$DB_TMP"
    chown mysql: "$CLUSTER_HOME/db" "$DB_TMP"
    chmod 700 "$CLUSTER_HOME/db" "$DB_TMP"
    # --force --skip-name-resolve: this machine's host name need not resolve.
    mariadb-install-db --no-defaults --user=mysql --datadir="$CLUSTER_HOME/db" --tmpdir="$DB_TMP" --skip-test-db \
        --auth-root-authentication-method=socket --skip-name-resolve --force >"$CLUSTER_HOME/log/db-install.log" 2>&1 ||
        { say "MariaDB makes no database: $CLUSTER_HOME/log/db-install.log"; return 1; }
}

make_slurm_database() {
    # By standard input: a password on a command line is everybody's to read.
    mariadb --no-defaults --socket="$CLUSTER_HOME/db/mysql.sock" --user=root <<SQL
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '$(cat "$CLUSTER_HOME/etc/db.password")';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
SQL
}

start_dbd() {
    ! is_running dbd || return 0
    need_free_port "$DBD_PORT"
    spawn_on_host dbd labdbd "${AS_SLURM[@]}" slurmdbd -D
    # A fresh one makes its tables first.
    wait_for_daemon dbd 40 port_is_open "$DBD_PORT"
}

# Before slurmctld starts, which enforces what it finds there: the account `lab` with the portal's two users.
register_in_accounting() {
    [ ! -e "$CLUSTER_HOME/db/.registered" ] || return 0
    {
        sacctmgr --immediate add cluster lab &&
            sacctmgr --immediate add account lab Description=lab Organization=lab &&
            sacctmgr --immediate add user portal DefaultAccount=lab &&
            sacctmgr --immediate add user "$JOBS_ACCOUNT" DefaultAccount=lab
    } >"$CLUSTER_HOME/log/sacctmgr.log" 2>&1 && touch "$CLUSTER_HOME/db/.registered"
}

start_ctld() {
    ! is_running ctld || return 0
    need_free_port "$CTLD_PORT"
    spawn_on_host ctld labctl "${AS_SLURM[@]}" slurmctld -D
    wait_for_daemon ctld 30 scontrol ping
}
