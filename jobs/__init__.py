"""What server and worker share: a job's queue, its record, its messages, and how both start. Imports no torch."""
