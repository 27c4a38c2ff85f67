-- A worker releases a job, and is about to take another. ARGV: queue, id, RQ's name of the execution, counted as lost 0|1, limits.
release(ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', limits_from(5))
choose_again(ARGV[1])
