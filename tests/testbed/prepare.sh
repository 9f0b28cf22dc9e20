# What a machine needs before suites run: mounts and modules by profile, then the agent, then the end of the machine.
# Process 1 of the profiles kvm and host; a service under systemd.
profile=$1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
if [ "$profile" != systemd ]; then
  mount -t proc proc /proc
  mount -t sysfs sys /sys
  mkdir -p /dev/pts /dev/shm /dev/mqueue
  mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
  mount -t tmpfs -o mode=1777 shm /dev/shm
  mount -t mqueue mqueue /dev/mqueue
  mount -t tmpfs -o mode=755 run /run
  mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
  mount --make-rshared /
  ln -sf /proc/self/fd /dev/fd
  ip link set lo up
  hostname testbed
  # Processes live in a leaf of their own: the root of a cgroup v2 tree may hold processes, but only a leaf resembles
  # what an init system leaves to its services.
  echo "+cpu +cpuset +io +memory +pids" >/sys/fs/cgroup/cgroup.subtree_control
  mkdir /sys/fs/cgroup/testbed
  echo $$ >/sys/fs/cgroup/testbed/cgroup.procs
fi
chmod 1777 /tmp
modprobe -a loop tun veth bridge overlay 2>/dev/null
case "$profile" in
  kvm*) modprobe kvm-amd 2>/dev/null || modprobe kvm-intel ;;
  host | systemd) modprobe -a br_netfilter nf_tables nf_conntrack nft_chain_nat nft_masq nft_ct erofs 2>/dev/null ;;
esac
sysctl -q -w kernel.printk=1 net.ipv4.ip_forward=1 2>/dev/null
/usr/bin/python3 -B /wherry/tests/testbed/agent.py &
agent=$!
# Process 1 also reaps what others leave behind; wait returns for its own child alone.
wait $agent
sync
if [ "$profile" = systemd ]; then systemctl --force --force poweroff; else /bin/busybox reboot -f; fi
