export default function JobPage(_: { id?: string; tab?: string }) {
  return <main id="content" class="content" />;
}
