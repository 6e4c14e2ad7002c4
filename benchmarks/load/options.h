#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

struct Options {
  std::string wire;
  uint16_t port = 0;
  std::vector<pid_t> pids;
  int connections = 1;
  int streams = 1;
  int in_flight = 1;

  // What a message carries.
  std::string path;  // opaque
  int bytes = 256;   // opaque
  std::string model;
  int sessions = 1;
  int steps = 1;
  int features = 64;
  int tokens = 0;
  int outputs = 64;
  int gate_bytes = 0;
  bool keep = false;

  // Sessions that are open besides.
  int blocks = 1;
  int idle = 0;

  int lanes() const { return streams * in_flight; }
};

Options parse_options(int count, char** arguments);
