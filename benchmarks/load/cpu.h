// CPU time of processes, to the nanosecond.
#pragma once

#include <sys/types.h>

#include <vector>

// These processes and all their descendants, as they are now.
std::vector<pid_t> with_descendants(const std::vector<pid_t>& roots);

// User and system time together, of all threads, in seconds.
double cpu_seconds(const std::vector<pid_t>& processes);
double own_cpu_seconds();

// On the monotonic clock.
double now();
