# shellcheck shell=bash
# sshd, as the login node of a real site. Sourced by cluster.sh.

start_sshd() {
    configure_ssh
    # Keys and accounts are read anew at each login; nothing else changes while it runs.
    ! is_running sshd || return 0
    need_free_port "$SSH_PORT"
    # sshd insists on an empty folder there; systemd would make it.
    mkdir -p /run/sshd
    # By its full path: it starts itself again for each connection.
    spawn sshd /usr/sbin/sshd -D -e -f "$CLUSTER_HOME/ssh/sshd_config"
    wait_for_daemon sshd 10 port_is_open "$SSH_PORT"
}

configure_ssh() {
    local ssh=$CLUSTER_HOME/ssh key
    mkdir -p "$ssh"
    for key in host_key people_key helper_key; do
        [ -s "$ssh/$key" ] || ssh-keygen -q -t ed25519 -N '' -C "$key" -f "$ssh/$key"
    done
    # The dispatcher's, as at a real site.
    chown portal: "$ssh/helper_key"
    authorized_keys >"$ssh/authorized_keys"
    echo "[127.0.0.1]:$SSH_PORT $(cut -d ' ' -f 1,2 "$ssh/host_key.pub")" >"$ssh/known_hosts"
    sshd_config >"$ssh/sshd_config"
    client_config people >"$ssh/config"
    client_config helper >>"$ssh/config"
}

# What the line for a key says is what whoever holds it can do: without an option anything that portal-jobs can; with
# these, whatever command is asked for, the helper runs instead, and no terminal and no forwarding is to be had.
# -I: Python takes nothing from the account's home or from variables.
authorized_keys() {
    local command
    command="python3 -I $(shell_quoted "$CLUSTER_JOBS_DIR/.node/current/submit.pyz")"
    cat "$CLUSTER_HOME/ssh/people_key.pub"
    # sshd takes \" for a quote there and every other backslash as it is.
    echo "restrict,command=\"${command//\"/\\\"}\" $(cat "$CLUSTER_HOME/ssh/helper_key.pub")"
}

# In single quotes: the account's shell reads the command.
shell_quoted() { printf "'%s'" "${1//\'/\'\\\'\'}"; }

sshd_config() {
    cat <<CONF
Port $SSH_PORT
ListenAddress 127.0.0.1
HostKey $CLUSTER_HOME/ssh/host_key
PidFile $CLUSTER_HOME/ssh/sshd.pid
AllowUsers $JOBS_ACCOUNT
# Not the account's own ~/.ssh/authorized_keys: there may be several clusters on this machine. It lies under /tmp,
# as a rule, which StrictModes would not have.
AuthorizedKeysFile $CLUSTER_HOME/ssh/authorized_keys $CLUSTER_HOME/ssh/more_authorized_keys
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
Subsystem sftp internal-sftp
# A real site has it in /etc/slurm, where Slurm's commands find it by themselves.
SetEnv SLURM_CONF=$SLURM_CONF
# Tests open many connections at once.
MaxStartups 100:30:200
MaxSessions 50
CONF
}

client_config() { # people | helper
    cat <<CONF
Host $1
  HostName 127.0.0.1
  Port $SSH_PORT
  User $JOBS_ACCOUNT
  IdentityFile $CLUSTER_HOME/ssh/$1_key
  IdentitiesOnly yes
  UserKnownHostsFile $CLUSTER_HOME/ssh/known_hosts
  StrictHostKeyChecking yes
  BatchMode yes
CONF
}
