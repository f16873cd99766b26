#!/bin/sh
# The batch script of portal-{INSTANCE}-{JOB_ID}-1. It may be submitted by hand while its attempt is unclaimed.
export SLOW_DIV_SECONDS='3'
exec 'python3' '-I' '{NODE_FILES}/wrapper.pyz' '{JOBS}/job-{JOB_ID}/attempts/1/config.ini'
