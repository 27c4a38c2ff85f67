-- A worker lets go of a job. ARGV: queue, id, RQ's name of the execution, counted as lost 0|1, max attempts, lost error,
-- retention in ms.
release(ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]))
