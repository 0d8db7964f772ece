"""Faults tried on a real ``lccl-serve``: what was sent, what became of it, and that no answer was wrong or lost.

    python -m benchmarks.faults [NAME …] [--minutes 10] [--quick]

Right answers are those that the same server gave to the same requests at rest, bit for bit; where a request leaves
the operating point to the service, the answer at rest for the point that it names.
"""
