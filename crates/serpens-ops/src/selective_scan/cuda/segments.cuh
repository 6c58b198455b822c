// Segments of time: long sequences are cut into them, as evenly as chunks of 32 steps, between which the checkpoints
// lie, allow.

// The chunk that a segment begins with.
__device__ __forceinline__ int first_chunk(const Segments& segments, int segment) {
    return segment * segments.chunks + min(segment, segments.longer);
}
__device__ __forceinline__ int chunks_of(const Segments& segments, int segment) {
    return segments.chunks + (segment < segments.longer);
}
