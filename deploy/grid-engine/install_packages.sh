#!/bin/sh
# Installs Debian's Grid Engine and its DRMAA library where they are missing. For root; harmless when run again.
#
# The packages are only a place to take programs from: cell.sh makes cells of its own, and Debian's, in
# /var/lib/gridengine, is never started.
set -eu

# gridengine-client has qsub, qstat and the like; gridengine-drmaa1.0 the library that the portal's backend loads.
packages="gridengine-master gridengine-exec gridengine-client gridengine-drmaa1.0 procps"
# The DRMAA library, under the name that `scheduler.drmaa.library` wants.
library=/usr/lib/gridengine-drmaa/lib/libdrmaa.so.1.0

missing_packages() {
    for package in $packages; do
        status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || echo "$package"
    done
}

# Their installation asks three questions, without an answer to which it makes no cell, and then fails.
answer_questions() {
    for package in gridengine-common gridengine-client gridengine-exec gridengine-master; do
        echo "$package shared/gridengineconfig boolean true"
        echo "$package shared/gridenginecell string default"
        echo "$package shared/gridenginemaster string $(hostname)"
    done | debconf-set-selections
}

# Debian's packages start their daemons unless this file says no (101: "forbidden by policy").
policy=/usr/sbin/policy-rc.d
made_policy=0
keep_daemons_from_starting() {
    [ ! -e "$policy" ] || return 0
    made_policy=1
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}
# shellcheck disable=SC2317,SC2329  # called by the trap
let_daemons_start_again() { [ "$made_policy" = 0 ] || rm -f "$policy"; }

apt() { apt-get -qq -o DPkg::Lock::Timeout=300 "$@" </dev/null >/dev/null; }

missing=$(missing_packages)
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086  # a list of names
    echo Installing Grid Engine: $missing
    export DEBIAN_FRONTEND=noninteractive
    trap let_daemons_start_again EXIT
    keep_daemons_from_starting
    answer_questions
    # An index that is fresh enough saves several seconds; one that is too old shows by the failure.
    # shellcheck disable=SC2086  # a list of names
    apt install --yes --no-install-recommends $missing ||
        { apt update && apt install --yes --no-install-recommends $missing; }
fi
[ -e "$library" ] || { echo "there is no $library after the installation" >&2; exit 1; }
