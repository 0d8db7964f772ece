"""Quality at batch time: what each image is run with, from deadlines, costs and the length of the queue."""
