// The umbrella: everything libunmerge.so exports lives in the rooms below; nothing is written here.
import UnmergeCore
import UnmergeMerge
import UnmergeSparse
