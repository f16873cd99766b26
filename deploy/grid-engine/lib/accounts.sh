# shellcheck shell=bash
# The account of the dispatcher and of the jobs, which DRMAA lets nobody tell apart. Sourced by cell.sh.
#
# Not the accounts of deploy/slurm/: the last of its clusters to go takes them along. As there, a folder of the
# machine's says which cells use the account, and the last one to be purged takes it away, if this script made it.
ACCOUNT=portal-cell
ACCOUNT_MARK=/var/lib/portal-grid-engine-cells
# Not in there: that folder goes with the last cell, while somebody may be waiting for the lock.
ACCOUNT_LOCK=/run/portal-grid-engine-cells.lock

make_account() {
    (
        flock 8
        mkdir -p "$ACCOUNT_MARK/cells"
        has_account || { useradd --system --create-home --home-dir "/var/lib/$ACCOUNT" --shell /bin/sh --user-group \
            "$ACCOUNT" && touch "$ACCOUNT_MARK/made"; }
        echo "$CELL_HOME" >"$ACCOUNT_MARK/cells/$(mark_name)"
    ) 8>"$ACCOUNT_LOCK" 9>&-
    has_account || die "the account $ACCOUNT cannot be made"
}

has_account() { getent passwd "$ACCOUNT" >/dev/null; }

# A file name for this cell; two homes never share one.
mark_name() { printf %s "$CELL_HOME" | sha256sum | cut -c 1-16; }

# What userdel says on the way is about a mail box that is not there.
remove_account() {
    [ -d "$ACCOUNT_MARK" ] || return 0
    (
        flock 8
        rm -f "$ACCOUNT_MARK/cells/$(mark_name)"
        ! another_cell_uses_it || exit 0
        [ ! -e "$ACCOUNT_MARK/made" ] || ! has_account || userdel --remove "$ACCOUNT" 2>/dev/null ||
            say "the account $ACCOUNT is in use and stays"
        rm -rf "$ACCOUNT_MARK"
    ) 8>"$ACCOUNT_LOCK" 9>&-
}

# One whose folder was deleted by hand does not count.
another_cell_uses_it() {
    local mark
    for mark in "$ACCOUNT_MARK"/cells/*; do
        [ ! -e "$mark" ] || [ ! -e "$(cat "$mark")/etc/env.sh" ] || return 0
    done
    return 1
}
