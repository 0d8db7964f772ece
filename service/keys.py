"""The former name of ``python -m lccl.service.auth.keys``, for one release."""

import sys

from .auth.keys import main

if __name__ == "__main__":
    print("python -m service.keys is deprecated: use python -m lccl.service.auth.keys", file=sys.stderr)
    main()
