# shellcheck shell=bash
# The folders and the files of settings. Sourced by cluster.sh.

DB_PORT=$((CLUSTER_PORT + 6))
CTLD_PORT=$((CLUSTER_PORT + 17))
DBD_PORT=$((CLUSTER_PORT + 19))
SSH_PORT=$((CLUSTER_PORT + 22))
MUNGE_SOCKET=$CLUSTER_HOME/munge/munge.sock

configure() {
    local before
    before=$(cat "$SLURM_CONF" 2>/dev/null)
    need_world_searchable "$CLUSTER_HOME"
    make_folders
    make_jobs_dir
    make_secret munge.key munge 128
    make_hosts_file
    slurm_conf >"$SLURM_CONF"
    cgroup_conf >"$CLUSTER_HOME/etc/cgroup.conf"
    [ "$ACCOUNTING" = 0 ] || configure_accounting
    env_file >"$CLUSTER_HOME/etc/env.sh"
    if is_running ctld && [ "$before" != "$(cat "$SLURM_CONF")" ]; then
        say "slurm.conf has changed: scontrol reconfigure"
        scontrol reconfigure
    fi
}

# Each account that calls sbatch reads slurm.conf and talks to munge's socket in there.
need_world_searchable() {
    local folder=$1
    while [ "$folder" != / ]; do
        [ -n "$(find "$folder" -maxdepth 0 -perm -o+x)" ] ||
            die "$folder is closed to other accounts, which could not read the cluster's slurm.conf"
        folder=$(dirname "$folder")
    done
}

make_folders() {
    local node
    mkdir -p "$CLUSTER_HOME"/{etc,log,run,spool,ctld,munge}
    for node in $(node_names); do mkdir -p "$CLUSTER_HOME/spool/$node"; done
    touch "$CLUSTER_HOME"/log/{slurmctld,slurmdbd}.log
    chown slurm: "$CLUSTER_HOME/ctld" "$CLUSTER_HOME"/log/{slurmctld,slurmdbd}.log
    chown munge: "$CLUSTER_HOME/munge"
}

# As design section 4 has it: the portal's, read by the jobs' group, which what is made in there inherits.
make_jobs_dir() {
    [ ! -d "$CLUSTER_JOBS_DIR" ] || return 0
    mkdir -p "$CLUSTER_JOBS_DIR"
    chown "portal:$JOBS_ACCOUNT" "$CLUSTER_JOBS_DIR"
    chmod 2750 "$CLUSTER_JOBS_DIR"
}

make_secret() { # FILE ACCOUNT BYTES: in etc/, once
    local file=$CLUSTER_HOME/etc/$1
    [ -s "$file" ] || (umask 077 && head -c "$3" /dev/urandom >"$file")
    chown "$2:" "$file"
    chmod 400 "$file"
}

# The host names that the daemons believe to be on. Debian's Slurm listens on loopback only where its own host name
# means loopback, and this machine's own may not resolve at all; so slurmctld and slurmdbd get a name and a hosts
# file of their own, as the nodes do.
make_hosts_file() {
    # Theirs is mounted over it, so it must be there.
    [ -e /etc/hosts ] || echo "127.0.0.1 localhost" >/etc/hosts
    echo "127.0.0.1 localhost labctl labdbd $(node_names | tr '\n' ' ')" >"$CLUSTER_HOME/etc/hosts"
}

slurm_conf() {
    cat <<CONF
ClusterName=lab
SlurmctldHost=labctl(127.0.0.1)
SlurmctldPort=$CTLD_PORT
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=slurm

# The machine's own munged, if any, has another key. (Accounting wants to be told the socket once more, below.)
AuthType=auth/munge
AuthInfo=socket=$MUNGE_SOCKET,cred_expire=${CRED_EXPIRE:-5}
CredType=cred/munge

StateSaveLocation=$CLUSTER_HOME/ctld
SlurmdSpoolDir=$CLUSTER_HOME/spool/%n
SlurmctldPidFile=$CLUSTER_HOME/ctld/slurmctld.pid
SlurmdPidFile=$CLUSTER_HOME/spool/%n/slurmd.pid
SlurmctldLogFile=$CLUSTER_HOME/log/slurmctld.log
SlurmdLogFile=$CLUSTER_HOME/log/slurmd-%n.log

# Short, so that a test need not wait minutes for a dead node. A busy machine may need more.
SlurmdTimeout=${SLURMD_TIMEOUT:-5}
MessageTimeout=${MESSAGE_TIMEOUT:-2}
TCPTimeout=2
BatchStartTimeout=10
KillWait=2
UnkillableStepTimeout=30
MinJobAge=${MIN_JOB_AGE:-300}
# A node that comes back may work at once, whatever took it down.
ReturnToService=2

# sbatch refuses what can never run; the default is to let it wait for ever.
EnforcePartLimits=ALL
JobRequeue=1
MaxJobCount=20000
# The limits of the shell that calls sbatch are none of the job's business.
PropagateResourceLimits=NONE
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true

# A job starts 0.4 s after sbatch, instead of 3 s.
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=2,bf_interval=1,bf_max_job_test=2000,default_queue_depth=500
PriorityType=priority/basic
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100

JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
$(slurm_conf_processes)
$(slurm_conf_accounting)

# Nodes may claim more than this machine has.
SlurmdParameters=config_overrides
$(slurm_conf_nodes)
PartitionName=main Nodes=node[1-$NODES] Default=YES DefaultTime=60 MaxTime=INFINITE State=UP
PartitionName=short Nodes=node[1-$NODES] DefaultTime=1 MaxTime=00:05:00 PriorityTier=10 State=UP
${CLUSTER_EXTRA_CONF:-}
CONF
}

# How Slurm finds a job's processes, and what it does about too much memory.
slurm_conf_processes() {
    if [ "$CGROUP" = 1 ]; then
        printf '%s\n' ProctrackType=proctrack/cgroup TaskPlugin=task/cgroup
    else
        # Needs nothing of the kernel. Memory is looked at once a second and the job killed, as FAILED: what ends as
        # OUT_OF_MEMORY needs --cgroup.
        printf '%s\n' ProctrackType=proctrack/linuxproc TaskPlugin=task/none JobAcctGatherParams=OverMemoryKill
    fi
}

slurm_conf_accounting() {
    [ "$ACCOUNTING" = 1 ] || return 0
    cat <<CONF

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$DBD_PORT
AccountingStoragePass=$MUNGE_SOCKET
AccountingStoreFlags=job_comment
# As at most sites: unknown accounts and QOS are refused, limits hold.
AccountingStorageEnforce=associations,limits,qos
CONF
}

slurm_conf_nodes() {
    local number
    for ((number = 1; number <= NODES; number++)); do
        echo "NodeName=node$number NodeHostname=node$number NodeAddr=127.0.0.1 Port=$((CLUSTER_PORT + 100 + number))" \
            "CPUs=${CLUSTER_NODE_CPUS:-4} RealMemory=${CLUSTER_NODE_MEMORY_MIB:-4000} State=UNKNOWN"
    done
}

# Slurm reads it from beside slurm.conf, and its daemons look for it even where nothing uses cgroups.
cgroup_conf() {
    local constrain=no
    [ "$CGROUP" = 0 ] || constrain=yes
    printf '%s\n' CgroupPlugin=cgroup/v1 CgroupMountpoint=/sys/fs/cgroup "ConstrainRAMSpace=$constrain" \
        ConstrainSwapSpace=no ConstrainCores=no ConstrainDevices=no
}

configure_accounting() {
    local file=$CLUSTER_HOME/etc/slurmdbd.conf password=$CLUSTER_HOME/etc/db.password
    [ -s "$password" ] || (umask 077 && head -c 18 /dev/urandom | base64 | tr -d '/+=\n' >"$password")
    # slurmdbd refuses a file that others can read.
    (umask 077 && slurmdbd_conf "$(cat "$password")" >"$file")
    chown slurm: "$file"
}

slurmdbd_conf() { # PASSWORD
    cat <<CONF
AuthType=auth/munge
AuthInfo=socket=$MUNGE_SOCKET
CommunicationParameters=NoInAddrAny
DbdHost=labdbd
DbdAddr=127.0.0.1
DbdPort=$DBD_PORT
SlurmUser=slurm
LogFile=$CLUSTER_HOME/log/slurmdbd.log
PidFile=$CLUSTER_HOME/ctld/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$DB_PORT
StorageUser=slurm
StoragePass=$1
StorageLoc=slurm_acct_db
CONF
}

env_file() {
    printf 'export %s=%q\n' SLURM_CONF "$SLURM_CONF" CLUSTER_HOME "$CLUSTER_HOME" CLUSTER_PORT "$CLUSTER_PORT" \
        CLUSTER_JOBS_DIR "$CLUSTER_JOBS_DIR"
    [ "$SSH" = 0 ] || printf 'export %s=%q\n' CLUSTER_SSH_PORT "$SSH_PORT" CLUSTER_SSH_CONFIG "$CLUSTER_HOME/ssh/config"
}
