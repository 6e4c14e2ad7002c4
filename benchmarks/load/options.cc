#include "options.h"

#include <getopt.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "bytes.h"

namespace {

constexpr char kUsage[] = R"(usage: load WIRE --port PORT [options]

Loads a server on this machine and measures it: HTTP/2 without a library, messages made ahead, one thread.
Reads windows from standard input (a pipe or a terminal), one line each, and prints one line of JSON for each:

    WARM_UP SECONDS [RATE]    closed loop, or RATE messages a second, due at even times; latency counts from when a
                              message was due, so that a server that stalls is charged for all that waited
    count MESSAGES            closed loop, until every lane has had so many

At the end of its input it ends its streams, checks that nothing is owed, and exits with 0.

WIRE is one of
  opaque       8 bytes that name the lane, then noise; the answer has the same size and begins with the same bytes
  inference    ModelStreamInfer of the Open Inference Protocol, one sequence a stream
  gatestream   gatestream.v1: Open, then Steps; every step must be answered exactly once

  --pid PID         add the CPU time of this process and its descendants; may be given more than once
  --connections N   streams are dealt out over N connections (1)
  --streams N       in all (1)
  --in-flight N     messages in flight on each stream, each with sessions of its own (1; gatestream only)
  --path PATH       opaque: the RPC, as /package.Service/Method
  --bytes N         opaque: size of a message (256)
  --model NAME      inference, gatestream
  --sessions N      gatestream: sessions in a message (1)
  --steps N         steps of each session in a message (1)
  --features N      float32 in a row of the input x (64)
  --tokens N        the input is one int64 below N instead
  --outputs N       float32 in a row of the output (64)
  --gate-bytes N    gatestream: ask for the gates; bytes of all gates in a row
  --keep            gatestream: open sessions that outlive their stream, as the server's store keeps them
  --blocks N        gatestream: each lane takes N groups of sessions in turn (1)
  --idle N          gatestream: open N sessions more on each stream, and leave them
)";

int number(const char* text, int least) {
  char* end;
  const long value = std::strtol(text, &end, 10);
  if (*end != '\0' || value < least || value > 100'000'000)
    fail("'" + std::string(text) + "' is not a number of at least " + std::to_string(least));
  return int(value);
}

}  // namespace

Options parse_options(int count, char** arguments) {
  enum Name { kPort, kPid, kConnections, kStreams, kInFlight, kPath, kBytes, kModel, kSessions, kSteps, kFeatures,
              kTokens, kOutputs, kGateBytes, kKeep, kBlocks, kIdle, kHelp };
  static const option kOptions[] = {
      {"port", 1, nullptr, kPort},           {"pid", 1, nullptr, kPid},
      {"connections", 1, nullptr, kConnections}, {"streams", 1, nullptr, kStreams},
      {"in-flight", 1, nullptr, kInFlight},  {"path", 1, nullptr, kPath},
      {"bytes", 1, nullptr, kBytes},         {"model", 1, nullptr, kModel},
      {"sessions", 1, nullptr, kSessions},   {"steps", 1, nullptr, kSteps},
      {"features", 1, nullptr, kFeatures},   {"tokens", 1, nullptr, kTokens},
      {"outputs", 1, nullptr, kOutputs},     {"gate-bytes", 1, nullptr, kGateBytes},
      {"keep", 0, nullptr, kKeep},           {"blocks", 1, nullptr, kBlocks},
      {"idle", 1, nullptr, kIdle},           {"help", 0, nullptr, kHelp},
      {nullptr, 0, nullptr, 0}};
  Options options;
  for (int name; (name = getopt_long(count, arguments, "", kOptions, nullptr)) != -1;) {
    switch (name) {
      case kPort: options.port = uint16_t(number(optarg, 1)); break;
      case kPid: options.pids.push_back(number(optarg, 1)); break;
      case kConnections: options.connections = number(optarg, 1); break;
      case kStreams: options.streams = number(optarg, 1); break;
      case kInFlight: options.in_flight = number(optarg, 1); break;
      case kPath: options.path = optarg; break;
      case kBytes: options.bytes = number(optarg, 8); break;
      case kModel: options.model = optarg; break;
      case kSessions: options.sessions = number(optarg, 1); break;
      case kSteps: options.steps = number(optarg, 1); break;
      case kFeatures: options.features = number(optarg, 1); break;
      case kTokens: options.tokens = number(optarg, 0); break;
      case kOutputs: options.outputs = number(optarg, 1); break;
      case kGateBytes: options.gate_bytes = number(optarg, 0); break;
      case kKeep: options.keep = true; break;
      case kBlocks: options.blocks = number(optarg, 1); break;
      case kIdle: options.idle = number(optarg, 0); break;
      case kHelp: std::fputs(kUsage, stdout); std::exit(0);
      default: std::fputs(kUsage, stderr); std::exit(2);
    }
  }
  if (optind != count - 1 || options.port == 0) {
    std::fputs(kUsage, stderr);
    std::exit(2);
  }
  options.wire = arguments[optind];
  if (options.connections > options.streams) fail("--connections is more than --streams");
  return options;
}
