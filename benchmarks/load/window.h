// One measurement: what was asked for, and what came of it.
#pragma once

#include <string>
#include <vector>

struct Window {
  double warm_up = 0;
  double seconds = 0;
  double rate = 0;  // messages a second through all lanes; 0: closed loop
  long count = 0;   // messages of each lane; 0: by time

  // Reads a line of standard input.
  static Window parse(const std::string& line);
};

struct Outcome {
  double seconds = 0;
  long messages = 0;
  long steps = 0;
  // Due in the window, and not answered at its end (open loop only).
  long backlog = 0;
  double server_cpu = 0;
  double client_cpu = 0;
  std::vector<float> latencies;  // seconds
  size_t request_bytes = 0;      // of a message on average, with its gRPC prefix

  // One line of JSON. Sorts the latencies.
  std::string to_json();
};
