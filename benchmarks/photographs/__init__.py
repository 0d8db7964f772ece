"""A network for photographs that skips, beside what a user would do instead, on test images.

    python -m benchmarks.photographs IMAGES --models FOLDER [--cache FOLDER]
    python -m benchmarks.photographs IMAGES --models FOLDER --time

IMAGES is a data set with test images, as for ``lccl evaluate``. FOLDER holds bundles that were trained on it, by name:

    plain                                     the plain twin
    gated                                     with gates, calibrated; no early exits
    exits                                     the same with early exits, calibrated again
    gated-several                             with gates, trained on several sizes, calibrated at the largest
    resnet14 resnet10 resnet18-w48 resnet18-w32   rivals: plain networks with fewer blocks or channels
    plain-160 plain-144 …                     rivals: the plain twin for smaller images, one for each size
    several                                   rival: the plain twin for smaller images, one for several sizes

Only ``plain`` must be there; what is missing is reported as not run. Whatever is chosen (which branches are removed,
which of a rival's networks are its best at a cost) is chosen on the part that also chooses thresholds. The test images
only measure. ``--time`` takes the times of what was measured, on a machine that does nothing else.
"""

RESULT, TIMES, REACHED = "photographs", "photographs_time", "photographs_stated_and_reached"
