#!/bin/bash
# Three 'hosts' in network namespaces train together; one of them is cut off.
#
#     sudo experiments/three_hosts.sh [FOLDER]
#
# Needs Linux, root (for `ip netns`) and iproute2; the hosts share this machine's disk, as those of
# a cluster share a file system. Host 1 has the store that the launchers meet at. When a state has
# been saved, the link of host 3 goes down: nothing is closed, as when a cable is pulled. What is to
# happen:
#
#   - hosts 1 and 2 wait ITERA_TIMEOUT seconds for host 3's gradient and give up; their launchers
#     meet again, without host 3, and go on from the last state to the end;
#   - host 3 waits as long, and then its launcher can't reach the others and ends with an error, when
#     the system gives up its connection: here after about half a minute (net.ipv4.tcp_retries2),
#     usually after a quarter of an hour.
#
# Then a run of the same settings that nobody disturbs is compared with it: the same number of steps
# and the same losses to float tolerance (two processes add gradients in another order than three).
set -euo pipefail

python=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/python
[ -x "$python" ] || python=python3
out=$(realpath -m "${1:-$(mktemp -d)}")
mkdir -p "$out"
export ITERA_TIMEOUT=${ITERA_TIMEOUT:-30} OMP_NUM_THREADS=1
export ITERA_CACHE=${ITERA_CACHE:-$out/cache}
pids=()

clean() {
    for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
    for host in 1 2 3; do ip netns del "itera$host" 2>/dev/null || true; done
    ip link del itera-bridge 2>/dev/null || true
}
trap clean EXIT
clean

ip link add itera-bridge type bridge
ip link set itera-bridge up
for host in 1 2 3; do
    ip netns add "itera$host"
    ip link add "itera-v$host" type veth peer name eth0 netns "itera$host"
    ip link set "itera-v$host" master itera-bridge up
    ip -n "itera$host" address add "10.99.0.$host/24" dev eth0
    ip -n "itera$host" link set eth0 up
    ip -n "itera$host" link set lo up
    ip netns exec "itera$host" sysctl -qw net.ipv4.tcp_retries2=6
done

texts=$out/texts
mkdir -p "$texts"
for i in $(seq 200); do
    for line in $(seq $((i % 17 + 4))); do
        echo "the cat number $((i * line % 13)) sees the dog number $((i + line * 7 % 11))."
    done > "$texts/$i.txt"
done

# Twelve rows can be shared by three processes and by two.
train=(train "$texts" --model itera --params 200K --name run --tokens 100K --batch-size 12
    --seq-len 32 --vocab-size 300 --workers 1 --precision fp32 --patience 0 --evaluations 40
    --lr-matrix 0.002 --lr-embedding 0.001 --lr-other 0.001 --quiet)

start() {  # HOST FOLDER
    setsid ip netns exec "itera$1" env GLOO_SOCKET_IFNAME=eth0 \
        "$python" -m itera_lite.torchrun --nnodes 2:3 --nproc-per-node 1 --max-restarts 3 \
        --rdzv-backend c10d --rdzv-endpoint 10.99.0.1:29400 --rdzv-id job \
        --rdzv-conf is_host=$([ "$1" = 1 ] && echo 1 || echo 0),last_call_timeout=10,read_timeout=30 \
        --local-addr "10.99.0.$1" "${train[@]}" --resume \
        --checkpoints "$2/checkpoints" --results "$2/results" > "$out/host$1.log" 2>&1 &
    pids+=($!)
    last=$!
}

step() {
    "$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["state"]["step"])' \
        "$out/cut/checkpoints/run-last/training_state/state.json" 2>/dev/null || echo 0
}

start 1 "$out/cut"; one=$last
sleep 2
start 2 "$out/cut"; two=$last
start 3 "$out/cut"; three=$last
until [ "$(step)" -gt 60 ]; do
    kill -0 "$one" || { cat "$out"/host*.log; exit 1; }
    sleep 0.5
done
echo "$(date +%T) a state of step $(step) is saved: host 3 is cut off"
ip link set itera-v3 down
codes=()
for pid in "$one" "$two" "$three"; do
    code=0; wait "$pid" || code=$?
    codes+=("$code")
    echo "$(date +%T) host ${#codes[@]} ended with $code"
done

"$python" -m itera_lite.cli "${train[@]}" --checkpoints "$out/whole/checkpoints" \
    --results "$out/whole/results"
"$python" - "$out" "${codes[@]}" <<'PYTHON'
import csv
import json
import sys
from pathlib import Path

out, codes = Path(sys.argv[1]), [int(code) for code in sys.argv[2:]]
rows = {
    way: list(csv.DictReader((out / way / "results" / "run_metrics.csv").open()))
    for way in ("cut", "whole")
}
summary = json.loads((out / "cut" / "results" / "run_summary.json").read_text())
steps = [[row["step"] for row in way] for way in rows.values()]
pairs = [
    (float(a["train_loss"]), float(b["train_loss"]))
    for a, b in zip(*rows.values())
    if a["train_loss"]
]
worst = max(abs(a - b) / b for a, b in pairs)
print(f"exit codes {codes}; {summary['training']['steps']} steps, ended by "
      f"{summary['training']['processes']} processes; losses apart by {worst:.2%} at most")
good = codes[:2] == [0, 0] and codes[2] != 0 and steps[0] == steps[1] and worst < 0.01
sys.exit(0 if good and summary["training"]["processes"] == 2 else "not as expected")
PYTHON
