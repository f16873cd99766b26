#!/bin/sh
#SBATCH --job-name=portal-{INSTANCE}-{JOB_ID}-1
#SBATCH --comment=portal-{INSTANCE}-{JOB_ID}-1
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=256M
#SBATCH --time=5
#SBATCH --output=scheduler.out
#SBATCH --error=scheduler.out
#SBATCH --open-mode=append
#SBATCH --export=NONE
#SBATCH --no-requeue
# The batch script of portal-{INSTANCE}-{JOB_ID}-1. It may be submitted by hand while its attempt is unclaimed.
export SLOW_DIV_SECONDS='3'
exec 'python3' '-I' '{NODE_FILES}/wrapper.pyz' '{JOBS}/job-{JOB_ID}/attempts/1/config.ini'
