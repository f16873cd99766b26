#!/bin/sh
# as_portal.sh COMMAND… - run a command as the account `portal`, which may become portal-jobs by sudo, as at a real
# site. For root. The line for sudoers is seen by this command alone, in a mount namespace of its own: nothing in the
# machine's /etc changes.
set -eu

SUDOERS=$(dirname "$(readlink -f "$0")")/sudoers
export SUDOERS
# shellcheck disable=SC2016  # the inner shell expands them
exec unshare --mount -- sh -eu -c '
    mount -t tmpfs -o mode=755 none /etc/sudoers.d
    install -m 0440 "$SUDOERS" /etc/sudoers.d/portal
    unset SUDOERS
    exec setpriv --reuid=portal --regid=portal --init-groups -- "$@"
' sh "$@"
