"""A round of a benchmark, without a process."""

from visiontool.evaluation.benchmark.process import Round

PLAIN = Round(
    device="cpu",
    provider="cpu",
    latencies_ms=(2.0, 1.0, 4.0, 3.0),
    network_images_per_s=500.0,
    opening_images_per_s=300.0,
    end_to_end_images_per_s=200.0,
    decode_ms_per_image=1.25,
    preprocess_ms_per_image=0.5,
    run_ms_per_image=2.0,
    unreadable=0.0,
    peak_memory_bytes=123_000_000,
    gpu_memory_bytes=None,
    seconds=0.5,
)
