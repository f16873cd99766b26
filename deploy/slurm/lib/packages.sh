# shellcheck shell=bash
# The Debian packages. Sourced by cluster.sh.

# slurm-wlm-basic-plugins: select/cons_tres, accounting and the like. procps: pgrep. sudo: for command_prefix.
# slurm-client, not slurm-wlm: that one is all of Slurm, and would want the daemons configured.
PACKAGES="slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge slurmdbd mariadb-server
    openssh-server openssh-client procps sudo"

missing_packages() {
    local package
    for package in $PACKAGES; do
        [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            echo "$package"
    done
}

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet --no-install-recommends "$@" \
        </dev/null >>"$CLUSTER_HOME/log/apt.log" 2>&1
}

install_packages() {
    local missing status
    mapfile -t missing < <(missing_packages)
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    mkdir -p "$CLUSTER_HOME/log"
    keep_daemons_from_starting
    # An index that is fresh enough saves several seconds; one that is too old shows by the failure.
    apt install "${missing[@]}" || { apt update && apt install "${missing[@]}"; }
    status=$?
    let_daemons_start_again
    [ $status = 0 ] || { tail -5 "$CLUSTER_HOME/log/apt.log" >&2; die "apt-get failed: $CLUSTER_HOME/log/apt.log"; }
}

# Debian's packages start their daemons, with settings that are not ours and on ports that everybody uses, unless
# this file says no (101: "forbidden by policy").
keep_daemons_from_starting() {
    MADE_POLICY=0
    [ ! -e /usr/sbin/policy-rc.d ] || return 0
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    MADE_POLICY=1
}

let_daemons_start_again() { [ "$MADE_POLICY" = 0 ] || rm -f /usr/sbin/policy-rc.d; }
