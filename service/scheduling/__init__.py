"""Quality at batch time: what each picture is run with, from deadlines, costs and the length of the queue."""
