// The umbrella: everything libunmerge.so exports lives in the rooms below. Only what must know every one of them is here.
import UnmergeCore
import UnmergeFactor
import UnmergeMerge
import UnmergeSparse
