#include "window.h"

#include <algorithm>
#include <cstdio>
#include <sstream>

#include "bytes.h"

Window Window::parse(const std::string& line) {
  Window window;
  std::istringstream words(line);
  if (line.rfind("count ", 0) == 0) {
    words.ignore(6);
    words >> window.count;
    if (words && window.count > 0) return window;
  } else if (words >> window.warm_up >> window.seconds && window.warm_up >= 0 && window.seconds > 0) {
    if (!(words >> window.rate)) window.rate = 0;
    if (window.rate >= 0) return window;
  }
  fail("'" + line + "' is no window; expected 'WARM_UP SECONDS [RATE]' or 'count MESSAGES'");
}

std::string Outcome::to_json() {
  if (messages == 0) fail("not one message was answered in the window; make it longer");
  std::sort(latencies.begin(), latencies.end());
  const auto quantile = [&](double q) {
    return 1e6 * double(latencies[std::min(latencies.size() - 1, size_t(q * double(latencies.size())))]);
  };
  const double per_message = 1e6 / double(messages);
  char text[640];
  std::snprintf(text, sizeof text,
                "{\"seconds\": %.6f, \"messages\": %ld, \"steps\": %ld, \"messages_per_s\": %.2f, \"steps_per_s\": %.2f, "
                "\"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, \"max_us\": %.2f, \"backlog\": %ld, "
                "\"server_cpu_us\": %.3f, \"server_cores\": %.4f, \"client_cpu_us\": %.3f, \"request_bytes\": %zu}",
                seconds, messages, steps, double(messages) / seconds, double(steps) / seconds, quantile(0.5),
                quantile(0.99), quantile(0.999), 1e6 * double(latencies.back()), backlog, server_cpu * per_message,
                server_cpu / seconds, client_cpu * per_message, request_bytes);
  return text;
}
