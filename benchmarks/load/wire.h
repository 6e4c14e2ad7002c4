// What is said on a stream: the messages of one protocol, made ahead, and the check of their answers.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bytes.h"
#include "options.h"

// A lane is a place for one message in flight; each stream has `Options::in_flight` of them, numbered through all
// streams.
class Wire {
 public:
  virtual ~Wire() = default;

  // The RPC, as HTTP/2 calls it.
  virtual std::string path() const = 0;

  // Appends what is sent first on a stream. True: its lanes may run at once; false: when `receive` has said kReady. When
  // it says kBegin, this is called once more.
  virtual bool begin(int stream, Bytes& out) = 0;

  // Appends the lane's next message.
  virtual void next(int lane, Bytes& out) = 0;

  // Appends the message that ends a lane, which is answered like the others; false where the protocol has none.
  virtual bool last(int /*lane*/, Bytes& /*out*/) { return false; }

  enum class Kind { kPartial, kBegin, kReady, kAnswered };
  struct Received {
    Kind kind;
    int lane;  // of kAnswered: whose message is now answered in full
  };
  // Checks a message from the server; fails on one that is not what was asked for.
  virtual Received receive(int stream, std::string_view message) = 0;

  // The server has ended the stream, after we did; fails when something is owed.
  virtual void end(int /*stream*/) {}
};

std::unique_ptr<Wire> make_opaque_wire(const Options& options);
std::unique_ptr<Wire> make_inference_wire(const Options& options);
std::unique_ptr<Wire> make_gatestream_wire(const Options& options);

// `rows` rows of input: float32 in -2..2, or int64 tokens.
Bytes random_rows(const Options& options, size_t rows, unsigned seed);
