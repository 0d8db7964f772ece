"""``python -m benchmarks.serving``; the load generator's processes import this module too, so it imports nothing."""

if __name__ == "__main__":
    from benchmarks.serving.command import main

    main()
