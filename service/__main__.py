"""``lccl-serve``: read the settings, run the service, in one process or several."""

import sys

from .run import run, stand_by


def main() -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted; SIGHUP reads API keys and models again."""
    stand_by()
    from pydantic import ValidationError
    from pydantic_settings import CliApp

    from lccl.errors import LcclError

    from .settings import Settings
    from .telemetry.logs import configure

    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        for complaint in error.errors():
            name = "_".join(str(part) for part in complaint["loc"]) or "settings"
            print(f"lccl-serve: {name}: {complaint['msg']}", file=sys.stderr)
        raise SystemExit(2) from None
    configure(settings.log_level)
    try:
        from .processes.plan import count_processes, share

        processes = count_processes(settings)
        if processes == 1:
            run(settings)
        else:
            from .processes.supervisor import supervise

            supervise(share(settings, processes))
    except LcclError as error:
        print(f"lccl-serve: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
