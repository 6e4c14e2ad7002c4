#include "cpu.h"

#include <dirent.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "bytes.h"

namespace {

pid_t parent_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  // The name, in parentheses, may hold anything; after it come the state and the parent.
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream rest(line.substr(name_end + 1));
  char state;
  pid_t parent = 0;
  rest >> state >> parent;
  return parent;
}

double seconds(clockid_t clock) {
  timespec time;
  if (clock_gettime(clock, &time) != 0) fail(std::string("a process that is measured has ended: ") + strerror(errno));
  return double(time.tv_sec) + double(time.tv_nsec) * 1e-9;
}

}  // namespace

std::vector<pid_t> with_descendants(const std::vector<pid_t>& roots) {
  std::vector<pid_t> all = roots;
  if (roots.empty()) return all;
  std::vector<std::pair<pid_t, pid_t>> parents;
  DIR* proc = opendir("/proc");
  if (proc == nullptr) fail("/proc cannot be read");
  while (const dirent* entry = readdir(proc))
    if (const pid_t pid = pid_t(std::atol(entry->d_name)); pid > 0) parents.emplace_back(pid, parent_of(pid));
  closedir(proc);
  for (size_t i = 0; i < all.size(); i++)
    for (const auto& [pid, parent] : parents)
      if (parent == all[i] && std::find(all.begin(), all.end(), pid) == all.end()) all.push_back(pid);
  return all;
}

double cpu_seconds(const std::vector<pid_t>& processes) {
  double sum = 0;
  for (const pid_t pid : processes) {
    clockid_t clock;
    if (clock_getcpuclockid(pid, &clock) != 0) fail("there is no process " + std::to_string(pid) + " to measure");
    sum += seconds(clock);
  }
  return sum;
}

double own_cpu_seconds() { return seconds(CLOCK_PROCESS_CPUTIME_ID); }

double now() { return seconds(CLOCK_MONOTONIC); }
