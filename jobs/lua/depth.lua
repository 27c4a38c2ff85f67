-- How many jobs wait. ARGV: queue.
return depth(ARGV[1])
