"""The service against the servers people know, each tuned, on two cores and over real sockets; Linux only.

    python -m benchmarks.serving [--quick] [--rounds N] [--networks NAME …] [--images DATA] [--twin FOLDER]
        [--photographs DATA]
    python -m benchmarks.serving tune [--networks NAME …]

What is compared. LitServe, BentoML, Ray Serve and a FastAPI service written with care (``peers/``) host the *plain
twin*: the same network without gates. This service hosts the network with gates and is asked for ``exact`` and for
``sparsity=0.5``. Each peer runs twice: with the fastest of ONNX Runtime and OpenVINO in fp32 and in
int8 behind it, and with this project's own engine in fp32, so that what the server gains and what the kernels gain show
apart. Int8 is NNCF's and ONNX Runtime's own (QDQ), from images of the part that this project's scales are chosen on;
precision, and accuracy on test images, stand side by side. All decode with the same library, scale with the same code,
answer with five classes as JSON, and share two cores with the load generator, which is held to one of them and whose
share of it is in the results. A peer or a runtime that is not installed is left out, which is said.

What is asked. ``resnet20``: the shipped model, with JPEGs of 32 × 32 pixels. Its trained plain twin is the bundle in
``--twin``; without one the peers host the shipped weights without their gates, which take as long and whose accuracy
says nothing. ``resnet18``: the shipped model for photographs, asked for ``exact`` and for the sparsest point that loses
at most half a percentage point against its trained plain twin, with JPEGs of 500 × 375 pixels, of ``--photographs`` or
drawn; without that model fresh weights for 1,000 classes, and thresholds under which every layer skips the wanted
share. ``resnet18-12-megapixels``: the same with drawn JPEGs of 4000 × 3000 pixels, where each peer runs once more and
decodes them whole, as its users do.

What is measured, interleaved: in every round each contestant has its turn, the others are frozen (SIGSTOP).

- saturated: answers a second, the higher of 64 requests always under way, and an open load of 1.15 times that.
- p99 at 70 % of the best peer's saturated throughput, an open load with Poisson arrivals.
- alone: one request at a time; what the client waits for, less what the answer says the engine took.
- mixed: three targets in one stream against one target for all at the same mean sparsity.

How the peers are tuned. ``tune`` measures the settings of :mod:`benchmarks.serving.tune`, keeps all figures in
``results/serving/tuning.json``, and the runs take the best of each peer, network and runtime from there.

Bundles, twins and images are made once, into ``build/serving``; ``make clean`` removes them.
"""
