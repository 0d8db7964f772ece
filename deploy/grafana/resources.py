"""The dashboard that shows what each replica takes of its machine."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.panels import INSTANCE, Section, dashboard, lines

OF_REPLICA = '{job="lccl", instance=~"$instance"}'


def _process() -> Section:
    cpu = f"rate(process_cpu_seconds_total{OF_REPLICA}[$__rate_interval])"
    files = {"{{instance}}": f"process_open_fds{OF_REPLICA}", "{{instance}}, limit": f"process_max_fds{OF_REPLICA}"}
    memory = {
        "{{instance}}, resident": f"process_resident_memory_bytes{OF_REPLICA}",
        "{{instance}}, reserved": f"process_virtual_memory_bytes{OF_REPLICA}",
    }
    return "Process", [
        lines("CPU", "Cores in use.", "short", {"{{instance}}": cpu}, 12),
        lines("Memory", "In use, and the addresses taken for it.", "bytes", memory, 12),
        lines("File descriptors", "Connections, files and pipes open, and how many may be.", "short", files, 12),
        lines("Running for", "Since the process started; it falls to 0 with each restart.", "s",
              {"{{instance}}": f"time() - process_start_time_seconds{OF_REPLICA}"}, 12),
    ]  # fmt: skip


def _gpus() -> Section:
    held = f"max by (instance, device, kind) (lccl_gpu_memory_bytes{OF_REPLICA})"
    none = 'label_replace(vector(0), "instance", "no GPU in use", "", "")'
    return "GPUs", [
        lines("GPU memory", "Of GPUs that models run on: allocated in tensors and reserved for them by the replica, "
              "used by whichever process, and the device's total.", "bytes",
              {"{{instance}} {{device}} {{kind}}": f"{held} or on() {none}"}, 24),
    ]  # fmt: skip


def _scrapes() -> Section:
    return "Scrapes", [
        lines("Time of a scrape", "What Prometheus waits for /metrics.", "s",
              {"{{instance}}": f"scrape_duration_seconds{OF_REPLICA}"}, 12),
        lines("Samples of a scrape", "How many series a replica has.", "short",
              {"{{instance}}": f"scrape_samples_scraped{OF_REPLICA}"}, 12),
    ]  # fmt: skip


def _sources() -> Section:
    none = 'label_replace(vector(1), "source", "no remote source", "", "")'
    return "Models and rates", [
        lines("Sources of models", "1 while a remote source was in order when it was last fetched, else 0: then what "
              "was fetched before is served.", "short",
              {"{{instance}} {{source}}": f"lccl_source_up{OF_REPLICA} or on() {none}"}, 12),
        lines("Store of rates", "0 while the store in which replicas count requests together does not answer, and the "
              "replica counts for itself, else 1.", "short",
              {"{{instance}}": f"lccl_rate_limit_store_up{OF_REPLICA}"}, 12),
    ]  # fmt: skip


def build() -> Dashboard:
    text = (
        "CPU, memory, file descriptors, GPUs' memory, sources and store of rates of each replica, and what reading its "
        "metrics takes."
    )
    return dashboard(
        "lccl-resources", "LCCL resources", text, [INSTANCE], [_process(), _gpus(), _scrapes(), _sources()]
    )
