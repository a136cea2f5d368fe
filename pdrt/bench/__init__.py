"""Measurements, each a command: `python -m pdrt.bench COMMAND`; see docs/benchmarking.md.

    load/      what is sent to a server, when, by which API, and what came back
    suite/     many programs one after the other, their results against targets on one page

    of a server, over HTTP      demo  serve  compare  sweep
    of an engine                offline  latency  handoff  burst  frontier
    of one worker's parts       scheduler  profile
    of int8 weights             quantization
    of GPU kernels              kernels

Every command is the module of its name. The other modules are what several of them share:

    report  results  tables  pages               figures with their origin; as JSON, text and HTML
    measures  statistics                         what `compare` calls a difference
    sweep_state  frontiers                       what `sweep` has measured, and what follows
    engine_flags  in_process  spans              engines and single workers in this process
    reader  predictions                          models that read, and what `quantization` compares
    setups  decode_step  stopping                what `frontier` runs, finds, and keeps when stopped
    gpu_bench  gpu_timing                        what the programs of benchmarks/kernels/ share
"""
