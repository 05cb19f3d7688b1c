// Rows of a table as of one moment, read piece by piece while training goes on: copy on write.

#ifndef LAZYTOWER_SNAPSHOT_H_
#define LAZYTOWER_SNAPSHOT_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace lazytower {

// What the snapshots of one moment share: a lock, and memory for records that are set aside.
struct Aside {
  explicit Aside(int64_t limit) : limit(limit) {}
  const int64_t limit;  // bytes; when they are used up, updates wait until pieces have been read
  int64_t used = 0;
  std::mutex mu;
  std::condition_variable freed;
};

// Every row is either pending (its record in the table is still that of the moment), or it has been read, or its
// record has been set aside. A row leaves the pending ones under the lock alone, so the table is read while it is
// updated.
class Snapshot {
 public:
  // `ids`: the rows, ascending; null: all of `rows`. A piece is `piece` of them in order, the last one may be shorter.
  Snapshot(const float* records, int64_t rows, int64_t width, const int64_t* ids, int64_t number, int64_t piece,
           std::shared_ptr<Aside> aside);

  // Sets aside those of some rows that are pending; to be called before they are updated.
  void Keep(const int64_t* ids, int64_t number);

  // The records of a piece; each piece once.
  void Read(int64_t piece, float* to);

  // Nothing is pending any more, and no thread waits.
  void Close();

  const float* records() const { return records_; }
  const std::shared_ptr<Aside>& aside() const { return aside_; }
  double waited() const { return waited_.load(); }  // seconds in which Keep waited for Read

 private:
  struct Copies {
    std::vector<int64_t> ids;
    std::vector<std::unique_ptr<float[]>> blocks;
  };
  void Free(Copies* copies);
  bool Pending(int64_t row) const { return pending_[row >> 6] >> (row & 63) & 1; }
  void Forget(int64_t row) { pending_[row >> 6] &= ~(uint64_t{1} << (row & 63)); }
  int64_t Row(int64_t place) const { return all_ ? place : ids_[place]; }

  const float* const records_;
  const int64_t width_, piece_, number_;
  const bool all_;
  const std::vector<int64_t> ids_;
  std::vector<int64_t> first_;  // row of each piece
  const std::shared_ptr<Aside> aside_;
  std::vector<uint64_t> pending_;  // a bit for each row
  std::vector<Copies> copies_;     // by piece
  std::atomic<double> waited_{0.0};
};

// The snapshots that are being read.
class Snapshots {
 public:
  // As Snapshot::Keep, of the snapshots of a table.
  static void Keep(const float* records, const int64_t* ids, int64_t number) {
    if (number_.load() > 0) KeepAll(records, ids, number);
  }
  static void Add(std::shared_ptr<Snapshot> snapshot);
  static void Remove(const Snapshot* snapshot);

 private:
  static void KeepAll(const float* records, const int64_t* ids, int64_t number);
  static std::atomic<int64_t> number_;
};

}  // namespace lazytower

#endif  // LAZYTOWER_SNAPSHOT_H_
