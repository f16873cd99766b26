# shellcheck shell=bash
# The accounts that the portal needs, as at a real site (docs/slurm.md). Sourced by cluster.sh.
#
#   portal       the web server and the dispatcher; nobody logs in to it
#   portal-jobs  jobs run as it. It has a login shell: sshd runs even a forced command through the account's shell
#   portal-jobs  the group of both: what the portal writes for jobs, they can read
#
# Accounts are the machine's, while there may be several clusters on it. So a folder of the machine's says which
# accounts this script made and which clusters use them; the last cluster to be purged takes them away.
ACCOUNTS_MARK=/var/lib/portal-slurm-cluster
# Not in there: that folder goes with the last cluster, while somebody may be waiting for the lock.
ACCOUNTS_LOCK=/run/portal-slurm-cluster.lock
JOBS_ACCOUNT=portal-jobs

make_accounts() {
    (
        flock 8
        mkdir -p "$ACCOUNTS_MARK/made" "$ACCOUNTS_MARK/clusters"
        has_group || { groupadd --system "$JOBS_ACCOUNT" && touch "$ACCOUNTS_MARK/made/group"; }
        has_account "$JOBS_ACCOUNT" || make_account "$JOBS_ACCOUNT" --shell /bin/sh --gid "$JOBS_ACCOUNT"
        has_account portal || make_account portal --shell /usr/sbin/nologin --user-group
        is_member || { usermod --append --groups "$JOBS_ACCOUNT" portal && touch "$ACCOUNTS_MARK/made/membership"; }
        echo "$CLUSTER_HOME" >"$ACCOUNTS_MARK/clusters/$(mark_name)"
    ) 8>"$ACCOUNTS_LOCK" 9>&-
    { is_member && has_account "$JOBS_ACCOUNT"; } || die "the accounts portal and $JOBS_ACCOUNT cannot be made"
}

has_group() { getent group "$JOBS_ACCOUNT" >/dev/null; }
has_account() { getent passwd "$1" >/dev/null; }
is_member() { id --name --groups portal 2>/dev/null | tr ' ' '\n' | grep -qx "$JOBS_ACCOUNT"; }

# --password '*' is no password, and not a locked account either: sshd refuses keys for those where UsePAM is off.
make_account() { # NAME OPTION…
    local name=$1
    shift
    useradd --system --create-home --home-dir "/var/lib/$name" --password '*' "$@" "$name" &&
        touch "$ACCOUNTS_MARK/made/$name"
}

# A file name for this cluster; two homes never share one.
mark_name() { printf %s "$CLUSTER_HOME" | sha256sum | cut -c 1-16; }

remove_accounts() {
    [ -d "$ACCOUNTS_MARK" ] || return 0
    (
        flock 8
        rm -f "$ACCOUNTS_MARK/clusters/$(mark_name)"
        ! another_cluster_uses_them || exit 0
        remove_account portal
        remove_account "$JOBS_ACCOUNT"
        # userdel takes the group along where it is empty and the account's own.
        ! was_made membership || ! is_member || gpasswd --delete portal "$JOBS_ACCOUNT" >/dev/null
        ! was_made group || ! has_group || groupdel "$JOBS_ACCOUNT"
        rm -rf "$ACCOUNTS_MARK"
    ) 8>"$ACCOUNTS_LOCK" 9>&-
}

# What it says on the way is about mail boxes that are not there.
remove_account() { # NAME, if this script made it
    ! was_made "$1" || ! has_account "$1" || userdel --remove "$1" 2>/dev/null ||
        say "the account $1 is in use and stays"
}

was_made() { [ -e "$ACCOUNTS_MARK/made/$1" ]; }

# One whose folder was deleted by hand does not count.
another_cluster_uses_them() {
    local mark
    for mark in "$ACCOUNTS_MARK"/clusters/*; do
        [ ! -e "$mark" ] || [ ! -e "$(cat "$mark")/etc/slurm.conf" ] || return 0
    done
    return 1
}
