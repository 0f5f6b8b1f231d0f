// What owners hold against what they were promised and what they may: rows for the page. Pure.

import type { QuotaView, WorkspaceView } from '../api/tenancy';
import type { ProjectView } from '../api/types';
import { byName } from '../format';

export interface Owner {
  id: string;
  isWorkspace: boolean;
  held: number;
  /** Can always be had back; 0 where nothing is promised. */
  guaranteed: number;
  limit: number | null;
  /** Held beyond what was promised (or, where only a limit is set, beyond it). */
  borrowed: number;
  /** Of what is promised, what others use now. */
  lent: number;
  asked: number;
}

const wide = (one: QuotaView): boolean => one.group === '*' && one.provisioning === '*';

/** Of several quotas of an owner the one for everything counts; else those of its groups together. */
function quotaOf(
  owner: string,
  quotas: readonly QuotaView[],
): { guaranteed: number; limit: number | null } {
  const mine = quotas.filter((one) => one.owner === owner);
  const all = mine.find(wide);
  const parts = mine.filter((one) => !wide(one));
  const guaranteed = Math.max(
    all?.guaranteed_gpus ?? 0,
    parts.reduce((sum, one) => sum + one.guaranteed_gpus, 0),
  );
  return { guaranteed, limit: all?.limit_gpus ?? null };
}

function row(
  id: string,
  isWorkspace: boolean,
  held: number,
  asked: number,
  quota: { guaranteed: number; limit: number | null },
): Owner {
  const { guaranteed, limit } = quota;
  const mine = guaranteed > 0 ? guaranteed : (limit ?? Infinity);
  const borrowed = Math.max(0, held - mine);
  return {
    id,
    isWorkspace,
    held,
    guaranteed,
    limit,
    borrowed,
    asked,
    lent: Math.max(0, guaranteed - held),
  };
}

/** Workspaces with their projects under them, the largest first; no workspaces where all are in one. */
export function standing(
  projects: readonly ProjectView[],
  workspaces: readonly WorkspaceView[],
  quotas: readonly QuotaView[],
  asked: ReadonlyMap<string, number>,
): Owner[] {
  const rows = projects.map((project) => {
    const quota = quotaOf(`project:${project.id}`, quotas);
    const limit = quota.limit ?? project.quota_gpus;
    return {
      workspace: project.workspace,
      owner: row(project.id, false, project.used_gpus, asked.get(project.id) ?? 0, {
        ...quota,
        limit,
      }),
    };
  });
  const larger = (a: Owner, b: Owner): number => b.held - a.held || byName(a.id, b.id);
  const names = [...new Set(rows.map((one) => one.workspace))];
  const stated = quotas.some((one) => one.owner.startsWith('workspace:'));
  if (names.length < 2 && !stated) return rows.map((one) => one.owner).sort(larger);
  const spaces = names.map((name) => {
    const inside = rows.filter((one) => one.workspace === name).map((one) => one.owner);
    const known = workspaces.find((one) => one.id === name);
    const held = known?.held_gpus ?? inside.reduce((sum, one) => sum + one.held, 0);
    const waits = inside.reduce((sum, one) => sum + one.asked, 0);
    const owner = row(name, true, held, waits, quotaOf(`workspace:${name}`, quotas));
    return { owner, inside: inside.sort(larger) };
  });
  spaces.sort((a, b) => larger(a.owner, b.owner));
  return spaces.flatMap(({ owner, inside }) => [owner, ...inside]);
}
