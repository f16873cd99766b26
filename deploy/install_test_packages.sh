#!/bin/sh
# Installs the Debian packages that the tests need and that are not there yet. For root; harmless when run again.
set -eu

# dash: the shell of compute nodes under Debian; fonts-dejavu-core: what Chromium draws text with.
packages="chromium dash fonts-dejavu-core git postgresql procps shellcheck"

missing=
for package in $packages; do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "Installing Debian packages that the tests need:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    # shellcheck disable=SC2086  # a list of names
    apt-get -qq install --yes --no-install-recommends $missing >/dev/null
fi

"$(dirname "$0")/grid-engine/install_packages.sh"

# Slurm, MariaDB and sshd, none of which Debian's packages may start.
exec "$(dirname "$0")/slurm/cluster.sh" install
