#!/usr/bin/env bash
# Process 1 of a virtual node (nodes.sh): gives it its name and its hosts file, then waits for orphans to end, which
# bash does for any child, until it is killed.
set -u
hostname "$1"
mount --bind "$2" /etc/hosts
while :; do
    sleep 3600 &
    wait $!
done
