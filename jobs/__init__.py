"""What server and worker share: a job's queue, its record, and how both start. Imports no torch."""
