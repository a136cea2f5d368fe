"""Measurements, each a command: `python -m pdrt.bench COMMAND`; see docs/benchmarking.md.

    load/      what is sent to a server, when, by which API, and what came back
    suite/     many programs one after the other, their results against targets on one page

    of a server, over HTTP      demo  serve  sweep  start  frontend
    of two result files         compare
    of an engine                offline  latency  handoff  burst  frontier
    of one worker's parts       scheduler  profile
    of int8 weights             quantization
    of GPU kernels              kernels

Every command is the module of its name. The other modules are what several of them share:

    flags                                        what command lines have in common
    report  results  tables  pages               figures with their origin; as JSON, text and HTML
    measures  statistics                         what `compare` calls a difference
    sweep_state  frontiers                       what `sweep` has measured, and what follows
    engine_flags  in_process  spans              engines and single workers in this process
    processes                                    what `start` and `frontend` read of a server's
    reader  predictions                          models that read, and what `quantization` compares
    setups  decode_step                          what `frontier` runs and finds
    stopping                                     signals: what is ended, what is told
    gpu_bench  gpu_timing                        what the programs of benchmarks/kernels/ share
"""
