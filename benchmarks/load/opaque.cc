// Bytes that come back as they went: an echo, or a server of one's own that answers in the same frame.
#include <cstring>

#include "wire.h"

namespace {

constexpr size_t kName = 8;

class OpaqueWire : public Wire {
 public:
  explicit OpaqueWire(const Options& options) : options_(options) {
    if (options.path.empty()) fail("wire opaque needs --path");
    if (options.in_flight != 1) fail("wire opaque has one message in flight on a stream; leave out --in-flight");
    Options noise = options;
    noise.features = (options.bytes + 3) / 4;
    noise.tokens = 0;
    for (int lane = 0; lane < options.lanes(); lane++) {
      Bytes body = random_rows(noise, 1, unsigned(lane));
      body.resize(size_t(options.bytes));
      const uint64_t name = uint64_t(lane);
      std::memcpy(body.data(), &name, kName);
      messages_.emplace_back();
      put_message(messages_.back(), body);
    }
  }

  std::string path() const override { return options_.path; }

  bool begin(int, Bytes&) override { return true; }

  void next(int lane, Bytes& out) override { out.append(messages_[lane]); }

  Received receive(int stream, std::string_view message) override {
    const std::string_view sent = std::string_view(messages_[stream]).substr(5);
    if (message.size() != sent.size() || message.substr(0, kName) != sent.substr(0, kName))
      fail("stream " + std::to_string(stream) + ": the answer has " + std::to_string(message.size()) +
           " bytes or another lane's name; expected " + std::to_string(sent.size()) + " bytes that begin as was sent");
    return {Kind::kAnswered, stream};
  }

 private:
  const Options options_;
  std::vector<Bytes> messages_;
};

}  // namespace

std::unique_ptr<Wire> make_opaque_wire(const Options& options) { return std::make_unique<OpaqueWire>(options); }
