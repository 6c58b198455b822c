// A sequence comes into a slot.
extern "C" __global__ void __launch_bounds__(128) sampling_enter(const __grid_constant__ EnterParams p) {
    const u32* from = reinterpret_cast<const u32*>(&p.record);
    u32* to = reinterpret_cast<u32*>(p.slots + p.slot);
    for (int i = threadIdx.x; i < (int)(sizeof(Slot) / 4); i += 128) to[i] = from[i];
}
